// What an answer looks like: routes, the networks of a cascade, probabilities, views and the images at hand.

const significant = new Intl.NumberFormat('en', {maximumSignificantDigits: 3});
const percentage = new Intl.NumberFormat('en', {style: 'percent', maximumFractionDigits: 1});
const SMALL = 96; // pixels a side; smaller pictures keep their pixels when they are enlarged
const MANY = 32; // blocks, which are drawn smaller
const LIGHTING = 0.4; // seconds until the last block of a route is lit

const LEAST = 0.0005; // that is more than nothing, or less than all, in a percentage of one digit
export const percent = (share) =>
  share > 0 && share < LEAST ? '<0.1%' : share < 1 && share > 1 - LEAST ? '>99.9%' : percentage.format(share);
export const mega = (macs) => significant.format(macs / 1e6);
export const megaMacs = (macs) => `${mega(macs)} MMACs`;
export const milliseconds = (seconds) => `${significant.format(1e3 * seconds)} ms`;

export const counted = (number, one, many = `${one}s`) => `${number} ${number === 1 ? one : many}`;

export function make(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== false) made.setAttribute(name, value === true ? '' : value);
  }
  made.append(...children);
  return made;
}

export function picture(source, size, alt) {
  return make('img', {src: source || false, alt, class: size <= SMALL ? 'is-small' : '', width: size, height: size});
}

// Routes.

export function routeInWords(route) {
  const run = route.flatMap((runs, k) => (runs ? [k + 1] : []));
  const all = counted(route.length, 'block');
  if (run.length === route.length) return route.length === 1 ? 'runs its one block' : `runs all ${all}`;
  if (!run.length) return `runs none of ${all}`;
  return `runs ${run.length === 1 ? 'block' : 'blocks'} ${run.join(', ')} of ${route.length}`;
}

// Cells are made once and lit anew, so that what changes can be seen.
export function drawRoute(element, about, route, gates) {
  if (about.kind === 'cascade') return drawChain(element, about, route, gates);
  if (!element.querySelector('.cell')) element.replaceChildren(...about.blocksPerStage.map(emptyStage));
  element.style.setProperty('--blocks', route.length);
  element.querySelectorAll('.cell').forEach((cell, k) => {
    cell.style.setProperty('--wait', `${(LIGHTING * k) / route.length}s`);
    cell.classList.toggle('runs', Boolean(route[k]));
    cell.querySelector('i').textContent = k + 1;
    cell.title = `block ${k + 1} ${route[k] ? 'runs' : 'is skipped'}: gate ${significant.format(gates[k])}`;
  });
  element.ariaLabel = routeInWords(route);
}

function emptyStage(size, number) {
  const cells = Array.from({length: size}, () => make('div', {class: 'cell'}, make('i')));
  const name = make('span', {}, `Stage ${number + 1}`);
  return make('div', {class: 'stage'}, name, make('div', {class: 'cells'}, ...cells));
}

function drawChain(element, about, route, gates) {
  const names = memberNames(about);
  const last = route.lastIndexOf(1) + 1;
  const costs = [about.fixedMacs, ...about.blocksMacs];
  const members = names.map((name, k) => {
    const isAsked = k === 0 || route[k - 1] === 1;
    const unsure = isAsked && k < route.length ? `${percent(gates[k])} unsure, ` : '';
    const does = k === last ? 'answers' : isAsked ? 'passes it on' : 'is not asked';
    const marks = `member${isAsked ? ' runs' : ''}${k === last ? ' answers' : ''}`;
    return make('div', {class: marks}, make('b', {}, name), `${megaMacs(costs[k])}`, make('br'), `${unsure}${does}`);
  });
  const linked = members.flatMap((member, k) => (k ? [make('span', {class: 'arrow'}, '→'), member] : [member]));
  element.replaceChildren(make('div', {class: 'chain'}, ...linked));
  const numAsked = route.filter(Boolean).length + 1;
  element.ariaLabel = `${names[last]} answers; ${numAsked} of ${names.length} networks are asked`;
}

export function memberNames(about) {
  return [0, ...about.blocksMacs].map((_, k) => `Network ${k + 1}`);
}

export function smallRoute(about, route) {
  const isCascade = about.kind === 'cascade';
  // The first network of a cascade is always asked.
  const cells = isCascade ? [1, ...route] : [...route];
  const sizes = isCascade ? [cells.length] : about.blocksPerStage;
  const square = (runs) => make('i', {class: runs ? 'runs' : ''});
  const stages = sizes.map((size) => make('span', {}, ...cells.splice(0, size).map(square)));
  const words = isCascade ? `${memberNames(about)[route.lastIndexOf(1) + 1]} answers` : routeInWords(route);
  const marks = route.length > MANY ? 'small many' : 'small';
  return make('div', {class: marks, role: 'img', 'aria-label': words}, ...stages);
}

// Classes.

export function drawBars(element, top) {
  element.replaceChildren(
    ...top.map((each) => {
      const bar = make('i');
      bar.style.setProperty('--part', each.probability);
      return make(
        'li',
        {},
        make('span', {title: each.class}, each.class),
        make('span', {class: 'bar', 'aria-hidden': 'true'}, bar),
        make('span', {}, percent(each.probability)),
      );
    }),
  );
}

// Views.

const DONE = {crop: 'cropped', 'horizontal flip': 'mirrored', 'vertical flip': 'upside down', rotation: 'rotated'};

const sameRoute = (one, other) => one.every((runs, k) => runs === other[k]);

export function viewsInWords(about, image, views) {
  const routes = views.filter((view) => sameRoute(view.route, image.route)).length;
  const classes = views.filter((view) => view.label === image.label).length;
  const road = about.kind === 'cascade' ? 'Same network' : 'Same route';
  return `Do the answer and the route hold? ${road}: ${routes} of ${views.length}. Same class: ${classes} of ${views.length}.`;
}

export function drawViews(element, about, image, views) {
  element.replaceChildren(
    ...views.map((view) => {
      const done = DONE[view.name] ?? view.name;
      const alike = view.route.filter((runs, k) => runs === image.route[k]).length;
      const isSame = alike === view.route.length;
      const agrees =
        about.kind === 'cascade'
          ? `${isSame ? 'same' : 'another'} network`
          : isSame ? 'same route' : `${alike} of ${view.route.length} blocks alike`;
      const caption = make('figcaption', {}, make('b', {}, done), `seen as ${view.class}`, make('br'), make('span', {}, agrees));
      const seen = picture(view.picture, about.imageSize, `the image ${done}`);
      return make('figure', {class: 'view'}, seen, smallRoute(about, view.route), caption);
    }),
  );
}

// Images at hand.

export function drawGroups(element, about, choose) {
  element.replaceChildren(
    ...about.groups.map((group) => {
      const title = `${percent(group.share)} of the images, ${percent(group.top1)} of them right`;
      const cost = `${megaMacs(group.macs)}, ${percent(group.macs / about.staticMacs)} of the static network`;
      const thumbnails = group.images.map((image) => thumbnail(about, image, choose));
      return make(
        'section',
        {class: 'plate group'},
        make('h3', {}, title),
        smallRoute(about, group.route),
        make('p', {}, cost),
        make('div', {class: 'thumbnails'}, ...thumbnails),
      );
    }),
  );
}

function thumbnail(about, {number, label, prediction}, choose) {
  const isRight = label === prediction;
  const words = isRight ? about.classes[label] : `${about.classes[label]}, taken for ${about.classes[prediction]}`;
  const button = make(
    'button',
    {type: 'button', title: words, class: isRight ? '' : 'is-wrong', 'aria-label': `Image ${number}: ${words}`},
  );
  const image = picture('', Math.min(64, about.imageSize), '');
  image.loading = 'lazy'; // which must be known before the source is
  image.src = `picture/${number}`;
  button.append(image);
  button.addEventListener('click', () => choose(number, about.classes[label]));
  return button;
}
