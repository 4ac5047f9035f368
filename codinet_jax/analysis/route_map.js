'use strict';

(async function () {
  const TOUCHED_WITHIN = 28; // pixels
  const POINTED_WITHIN = 14;

  const element = (name) => document.getElementById(`route-map-${name}`);
  const json = (name) => JSON.parse(element(name).textContent);
  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const number = new Intl.NumberFormat('en', {maximumSignificantDigits: 3});
  const whole = new Intl.NumberFormat('en');
  const percent = new Intl.NumberFormat('en', {style: 'percent', maximumFractionDigits: 1});

  const data = json('data');
  const routes = bytes(data.routes);
  const labels = new Uint16Array(bytes(data.labels).buffer);
  const predictions = new Uint16Array(bytes(data.predictions).buffer);
  const numImages = labels.length;
  const bytesPerRoute = Math.ceil(data.numBlocks / 8);
  const blocks = Array.from({length: data.numBlocks}, (_, k) => k);

  const runs = (image, k) => (routes[image * bytesPerRoute + (k >> 3)] >> (7 - (k & 7))) & 1;
  const isRight = (image) => predictions[image] === labels[image];
  const costs = Float64Array.from(labels, (_, image) =>
    blocks.reduce((macs, k) => macs + runs(image, k) * data.blockMacs[k], data.fixedMacs));
  const lowest = costs.reduce((a, b) => Math.min(a, b));
  const highest = costs.reduce((a, b) => Math.max(a, b));
  const megaMacs = (macs) => `${number.format(macs / 1e6)} MMACs`;

  // How the points are coloured, and what the legend says of it.

  const dark = matchMedia('(prefers-color-scheme: dark)');
  const palette = () => data.palettes[dark.matches ? 'dark' : 'light'];

  function costColour(macs) {
    const share = highest > lowest ? (macs - lowest) / (highest - lowest) : 0;
    return palette().cost[Math.round(share * (palette().cost.length - 1))];
  }

  function keyed(colour, text) {
    const item = document.createElement('li');
    const swatch = document.createElement('span');
    swatch.className = 'swatch';
    swatch.style.background = colour;
    item.append(swatch, text);
    return item;
  }

  function ramp() {
    const item = document.createElement('li');
    const bar = document.createElement('span');
    bar.className = 'ramp';
    bar.style.background = `linear-gradient(to right, ${palette().cost.join(', ')})`;
    item.append(number.format(lowest / 1e6), bar, megaMacs(highest));
    return item;
  }

  const ways = {
    class: {
      colour: (image) => palette().classes[labels[image]] ?? palette().others,
      legend: () => {
        const {classes, others} = palette();
        const named = data.classes.slice(0, classes.length).map((name, label) => keyed(classes[label], name));
        return data.classes.length > classes.length ? [...named, keyed(others, 'other classes')] : named;
      },
    },
    cost: {
      colour: (image) => costColour(costs[image]),
      legend: () => [ramp()],
    },
    correctness: {
      colour: (image) => (isRight(image) ? palette().right : palette().wrong),
      legend: (images) => {
        const right = images.filter(isRight).length;
        return [
          keyed(palette().right, `right (${whole.format(right)})`),
          keyed(palette().wrong, `wrong (${whole.format(images.length - right)})`),
        ];
      },
    },
  };

  // The chart.

  const views = await Bokeh.embed.embed_item(json('json'), element('chart').id);
  const model = (name) => Bokeh.documents.at(-1).get_model_by_name(name);
  const [context, points, ring] = ['context', 'points', 'chosen'].map(model);
  const chart = Bokeh.documents.at(-1).roots()[0];
  const {x, y} = context.data_source.data;

  let shown = []; // the images of the class and the answers that are asked for, in the split's order
  let chosen = 0;

  function draw() {
    const label = element('class').value;
    const answers = element('answers').value;
    const way = ways[element('colour').value];
    shown = Array.from(labels.keys()).filter((image) =>
      (label === '' || labels[image] === Number(label)) && (answers === '' || isRight(image) === (answers === 'right')));
    // The wrong ones on top: they are few, and looked for.
    const order = shown.filter(isRight).concat(shown.filter((image) => !isRight(image)));
    points.data_source.data = {
      x: order.map((image) => x[image]),
      y: order.map((image) => y[image]),
      colour: order.map(way.colour),
    };
    context.visible = shown.length < numImages;
    context.glyph.fill_color = {value: palette().others};
    points.glyph.line_color = {value: palette().ink};
    ring.glyph.line_color = {value: palette().ink};
    element('legend').replaceChildren(...way.legend(shown));
    element('count').textContent = `${whole.format(shown.length)} of ${whole.format(numImages)} images`;
    element('card').hidden = shown.length === 0;
    ring.visible = shown.length > 0;
    if (shown.length) choose(shown.includes(chosen) ? chosen : shown[0]);
  }

  function nearest(event, within) {
    const across = chart.inner_width / (chart.x_range.end - chart.x_range.start);
    const up = chart.inner_height / (chart.y_range.end - chart.y_range.start);
    let found = null;
    let least = within;
    for (const image of shown) {
      const distance = Math.hypot((x[image] - event.x) * across, (y[image] - event.y) * up);
      if (distance < least) [found, least] = [image, distance];
    }
    return found;
  }

  function point(event, within) {
    const image = nearest(event, within);
    if (image !== null && image !== chosen) choose(image);
  }

  // The card.

  const sheets = new Map();

  function sheet(number) {
    if (!sheets.has(number)) {
      const image = new Image();
      image.src = data.sheets[number];
      sheets.set(number, image.decode().then(() => image));
    }
    return sheets.get(number);
  }

  async function showPicture(image) {
    const canvas = element('picture');
    const {width, height} = canvas;
    const isKept = image < data.numPictures;
    canvas.hidden = !isKept;
    element('no-picture').hidden = isKept;
    if (!isKept) return;
    const pen = canvas.getContext('2d');
    pen.clearRect(0, 0, width, height);
    const cell = image % (data.sheetColumns * data.sheetRows);
    const source = await sheet(Math.floor(image / (data.sheetColumns * data.sheetRows)));
    if (image !== chosen) return;
    const [column, row] = [cell % data.sheetColumns, Math.floor(cell / data.sheetColumns)];
    pen.drawImage(source, column * width, row * height, width, height, 0, 0, width, height);
  }

  function showRoute(image) {
    const squares = blocks.map((k) => {
      const square = document.createElement('i');
      square.className = runs(image, k) ? 'runs' : '';
      return square;
    });
    const run = blocks.filter((k) => runs(image, k));
    element('blocks').textContent = `${run.length} of ${data.numBlocks}`;
    element('route').replaceChildren(...squares);
    element('route').ariaLabel = run.length
      ? `runs ${data.part}s ${run.map((k) => k + 1).join(', ')}`
      : `runs no ${data.part}`;
  }

  function choose(image) {
    chosen = image;
    ring.data_source.data = {x: [x[image]], y: [y[image]]};
    const [label, prediction] = [data.classes[labels[image]], data.classes[predictions[image]]];
    element('position').textContent = `Image ${whole.format(image)}`;
    element('label').textContent = label;
    element('prediction').textContent = isRight(image) ? prediction : `${prediction} ✗ wrong`;
    element('prediction').classList.toggle('is-wrong', !isRight(image));
    const share = percent.format(costs[image] / data.staticMacs);
    element('cost').textContent = `${megaMacs(costs[image])}, ${share} of static`;
    element('picture').ariaLabel = `Image ${image}, of class ${label}`;
    showRoute(image);
    showPicture(image);
  }

  function step(by) {
    choose(shown[(shown.indexOf(chosen) + by + shown.length) % shown.length]);
  }

  chart.on_event('mousemove', (event) => point(event, POINTED_WITHIN));
  // Two quick taps on two points are a double tap to the chart.
  for (const tap of ['tap', 'doubletap']) chart.on_event(tap, (event) => point(event, TOUCHED_WITHIN));
  element('previous').addEventListener('click', () => step(-1));
  element('next').addEventListener('click', () => step(1));
  element('class').addEventListener('change', draw);
  element('answers').addEventListener('change', draw);
  element('colour').addEventListener('change', draw);
  dark.addEventListener('change', draw);

  // The map takes no keys, its buttons do; without this it is framed in dots when it is tapped.
  const surface = views.get_one(chart).canvas_view.events_el;
  surface.tabIndex = -1;
  surface.style.outline = 'none';

  // A finger that drags over the map scrolls the page, unless panning is asked for in the toolbar.
  if (matchMedia('(pointer: coarse)').matches) {
    chart.toolbar.tools.find((tool) => tool.type === 'PanTool').active = false;
  }

  draw();
})();
