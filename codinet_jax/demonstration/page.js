// The page: asks the server about the network, sends it images, and shows what it says as the dial is turned.

import {curve} from './curve.js';
import {
  counted,
  drawBars,
  drawGroups,
  drawRoute,
  drawViews,
  mega,
  memberNames,
  milliseconds,
  percent,
  picture,
  viewsInWords,
} from './drawing.js';

const AGAIN = 500; // milliseconds until a network that is not ready is asked about again
const GONE = 'The server does not answer: start codinet demo again.';

const element = (name) => document.getElementById(name);
const threshold = new Intl.NumberFormat('en', {maximumSignificantDigits: 3});

let about = null;
let plot = null;
let shown = null; // the image that is looked at: {content, caption}, or {number, caption} of one at hand
let wanted = null; // the one that is to be
let answer = null;

async function ask(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Error(GONE);
  }
  const told = await response.json();
  if (!response.ok) throw Object.assign(new Error(told.error), {status: response.status});
  return told;
}

function complain(sentence) {
  element('error').textContent = sentence;
  element('error').hidden = !sentence;
  if (sentence) element('error').scrollIntoView({block: 'nearest'});
}

// The network.

async function begin() {
  while (about === null) {
    try {
      about = await ask('about');
    } catch (error) {
      if (error.status !== 503) return complain(error.message);
      await new Promise((resolve) => setTimeout(resolve, AGAIN));
    }
  }
  element('name').textContent = about.name;
  element('subtitle').textContent = introduction();
  element('try').textContent = whatToTry();
  element('try').hidden = false;
  element('cost-note').textContent = costsInWords();
  document.title = `${about.name} · codinet demo`;
  showDial();
  if (about.kind === 'cascade') {
    element('dear-end').textContent = 'more networks';
    element('blocks-name').textContent = 'Networks asked';
    element('route-title').textContent = 'Which network answers';
  }
  element('examples').hidden = false;
  element('examples-note').textContent = about.examples;
  drawGroups(element('groups'), about, lookAtExample);
  element('work').hidden = false;
  const first = about.groups.flatMap((group) => group.images)[0];
  if (first) lookAtExample(first.number, about.classes[first.label]);
}

function introduction() {
  const colours = about.channels === 1 ? 'in grey' : 'in colour';
  const blocks = counted(about.blocksMacs.length, 'block');
  const what = {
    cascade: `A cascade of ${about.blocksMacs.length + 1} networks: the next is asked where the ones before are unsure.`,
    routed: `A routed network of ${blocks}: every image runs those that it needs.`,
    static: `A static network of ${blocks}: every image runs all of them.`,
  };
  const size = `${about.imageSize}x${about.imageSize} pixels`;
  return `${what[about.kind]} It sees ${size}, ${colours}, and knows ${counted(about.classes.length, 'class', 'classes')}.`;
}

function whatToTry() {
  const seen = about.kind === 'cascade' ? 'see which network answers' : 'see blocks drop out';
  const steps = ['Drop an image anywhere on this page, or choose one.'];
  if (about.groups.length) steps[0] = 'Give an image of your own, or press one of the images below.';
  if (about.dial.stops.length) steps.push(`Then turn the dial towards cheaper, and ${seen}.`);
  return steps.join(' ');
}

function costsInWords() {
  const shares = {
    cascade: 'Static cost is that of the last network, asked alone.',
    routed: 'Static cost is that of the same network without routers, all its blocks run.',
    static: '',
  };
  return `A MMAC is a million multiply-accumulates. ${shares[about.kind]}`.trim();
}

// The dial.

function stop() {
  return about.dial.stops[element('turn').valueAsNumber] ?? null;
}

function showDial() {
  const {stops, start, sentence} = about.dial;
  element('dial-note').textContent = sentence;
  if (about.curve.length > 1) {
    plot = curve(about.curve);
    element('curve').prepend(plot.drawn);
    element('curve-plate').hidden = false;
  }
  if (stops.length) {
    element('turned').hidden = false;
    element('turn').max = stops.length - 1;
    element('turn').value = start;
    element('points').append(...stops.flatMap((each, i) => (each.name ? [pointButton(each.name, i)] : [])));
  }
  turned();
}

function pointButton(name, i) {
  const button = document.createElement('button');
  button.type = 'button';
  button.textContent = name;
  button.dataset.stop = i;
  button.addEventListener('click', () => {
    element('turn').value = i;
    turned();
    look();
  });
  return button;
}

function drawCurve() {
  if (plot === null) return;
  const cost = answer?.image.macs_share ?? null;
  const isOn = plot.turn(stop(), cost);
  const marks = isOn ? ['○ the dial', '▲ this image'] : ['○ the dial'];
  if (cost !== null && !isOn) marks.push(`this image, at ${percent(cost)}, is off the scale`);
  element('marks').textContent = marks.join(', ');
}

function turned() {
  const at = stop();
  drawCurve();
  if (at === null) return;
  const [head, rest] = [document.createElement('b'), document.createElement('span')];
  const held = `threshold ${threshold.format(at.threshold)}`;
  head.textContent = at.macs_share === null ? held : `${percent(at.macs_share)} of static cost`;
  const right = at.top1 === null ? '' : `, ${percent(at.top1)} right`;
  rest.textContent = at.macs_share === null ? meaning() : `in the mean${right}; ${held}`;
  element('stop').replaceChildren(head, rest);
  element('turn').setAttribute('aria-valuetext', `${head.textContent}; ${rest.textContent}`);
  for (const button of element('points').querySelectorAll('button')) {
    button.ariaPressed = String(Number(button.dataset.stop) === element('turn').valueAsNumber);
  }
}

function meaning() {
  return about.kind === 'cascade'
    ? 'of doubt, from which the next network is asked'
    : 'that a gate must reach for its block to run';
}

// Images.

let isAsking = false;
let isAskedAgain = false;

// One request at a time; what was asked meanwhile is asked once, as the dial stands then.
async function look() {
  isAskedAgain = true;
  if (isAsking) return;
  isAsking = true;
  while (isAskedAgain && wanted !== null) {
    isAskedAgain = false;
    await lookOnce(wanted);
  }
  isAsking = false;
}

async function lookOnce(image) {
  const query = new URLSearchParams();
  if (stop() !== null) query.set('threshold', stop().threshold);
  if (image.number !== undefined) query.set('number', image.number);
  try {
    answer = await ask(`look?${query}`, {method: 'POST', body: image.content});
    shown = image;
    complain('');
    show(image);
  } catch (error) {
    if (wanted === image) wanted = shown;
    complain(error.message);
  }
}

function lookAtExample(number, name) {
  wanted = {number, caption: `Image ${number}, of class ${name}.`};
  look();
}

function lookAtFile(files) {
  const file = files?.[0];
  if (!file) return complain('There is no image in that: give an image file, or copy the image itself.');
  if (file.size > about.maxUploadBytes) return complain(about.tooLarge);
  wanted = {content: file, caption: `${file.name || 'What was pasted'}, as the network sees it.`};
  look();
}

function show({caption}) {
  const {image, views, seconds} = answer;
  const seen = picture(image.picture, about.imageSize, caption);
  seen.id = 'picture';
  seen.classList.add('seen');
  element('picture').replaceWith(seen);
  element('hint').hidden = true;
  element('caption').textContent = caption;
  element('no-answer').hidden = true;
  element('found').hidden = false;
  element('changed').hidden = false;
  element('class').textContent = image.class;
  element('sure').textContent = `${percent(image.probability)} sure`;
  element('macs').textContent = mega(image.macs);
  element('share').textContent = percent(image.macs_share);
  element('time').textContent = milliseconds(seconds);
  element('blocks').textContent = blocksRun(image.route);
  drawRoute(element('route'), about, image.route, image.gates);
  if (about.kind === 'routed') element('route-note').textContent = 'Filled: the block runs. Thin: it is skipped, and its cost saved.';
  drawBars(element('bars'), image.top);
  element('agreement').textContent = viewsInWords(about, image, views);
  drawViews(element('views'), about, image, views);
  drawCurve();
}

function blocksRun(route) {
  const run = route.filter(Boolean).length;
  return about.kind === 'cascade' ? `${run + 1} of ${memberNames(about).length}` : `${run} of ${route.length}`;
}

// What the hands do.

element('turn').addEventListener('input', () => {
  turned();
  look();
});
element('choose').addEventListener('click', () => element('file').click());
element('file').addEventListener('change', (event) => {
  if (event.target.files.length) lookAtFile(event.target.files);
  event.target.value = ''; // so that the same file can be chosen again
});
document.addEventListener('paste', (event) => about && lookAtFile(event.clipboardData.files));
document.addEventListener('dragover', (event) => {
  event.preventDefault();
  document.body.classList.add('dropping');
});
document.addEventListener('dragleave', (event) => {
  if (event.relatedTarget === null) document.body.classList.remove('dropping');
});
document.addEventListener('drop', (event) => {
  event.preventDefault();
  document.body.classList.remove('dropping');
  if (about) lookAtFile(event.dataTransfer.files);
});

begin();
