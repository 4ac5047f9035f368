// The accuracy-cost curve: what thresholds were measured to cost and how right they were, and where the dial is on it.

import {percent} from './drawing.js';

const [WIDTH, HEIGHT] = [300, 204];
const [LEFT, RIGHT, TOP, BOTTOM] = [40, 12, 24, 34];

function shape(tag, attributes, text = '') {
  const made = document.createElementNS('http://www.w3.org/2000/svg', tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.textContent = text;
  return made;
}

// From a little below the least value to a little above the greatest, and the round numbers between, a handful.
function axis(values) {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const room = Math.max(0.04 * (high - low), 1e-3);
  const rough = Math.max(high - low, 2e-3) / 5;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((each) => each * power >= rough * 0.999);
  const [from, to] = [low - room, high + room];
  const first = Math.ceil(from / step);
  const ticks = Array.from({length: Math.floor(to / step) - first + 1}, (_, i) => (first + i) * step);
  return {from, to, ticks};
}

export function curve(points) {
  const [across, up] = [0, 1].map((coordinate) => axis(points.map((point) => point[coordinate])));
  const along = (value, {from, to}, start, end) => start + ((value - from) / (to - from)) * (end - start);
  const x = (share) => along(share, across, LEFT, WIDTH - RIGHT);
  const y = (top1) => along(top1, up, HEIGHT - BOTTOM, TOP);

  const drawn = shape('svg', {viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: 'img'});
  for (const tick of up.ticks) {
    drawn.append(
      shape('line', {class: 'grid', x1: LEFT, x2: WIDTH - RIGHT, y1: y(tick), y2: y(tick)}),
      shape('text', {x: LEFT - 6, y: y(tick) + 4, 'text-anchor': 'end'}, percent(tick)),
    );
  }
  for (const tick of across.ticks) {
    drawn.append(shape('text', {x: x(tick), y: HEIGHT - BOTTOM + 15, 'text-anchor': 'middle'}, percent(tick)));
  }
  const title = {x: (LEFT + WIDTH - RIGHT) / 2, y: HEIGHT - 3, 'text-anchor': 'middle'};
  drawn.append(shape('line', {class: 'axis', x1: LEFT, x2: WIDTH - RIGHT, y1: HEIGHT - BOTTOM, y2: HEIGHT - BOTTOM}));
  drawn.append(shape('text', title, 'mean cost, of the static network'));
  drawn.append(shape('text', {x: 0, y: 9}, 'images right'));
  const corners = points.map(([share, top1]) => `${x(share)},${y(top1)}`).join(' ');
  drawn.append(shape('polyline', {class: 'line', points: corners}));
  for (const [share, top1] of points) drawn.append(shape('circle', {class: 'dot', cx: x(share), cy: y(top1), r: 2}));

  const here = shape('circle', {class: 'here', r: 6});
  const spent = shape('path', {class: 'spent', d: 'M0 0 l5 8 h-10 z'});
  drawn.append(spent, here);

  // `cost` is what the image at hand cost, if there is one. Returns whether it has a mark: it may lie beyond the axis.
  function turn(stop, cost) {
    const isKnown = stop !== null && stop.top1 !== null;
    here.style.display = isKnown ? '' : 'none';
    if (isKnown) {
      here.setAttribute('cx', x(stop.macs_share));
      here.setAttribute('cy', y(stop.top1));
    }
    const isOn = cost !== null && cost >= across.from && cost <= across.to;
    spent.style.display = isOn ? '' : 'none';
    if (isOn) spent.setAttribute('transform', `translate(${x(cost)} ${HEIGHT - BOTTOM})`);
    drawn.ariaLabel = isKnown
      ? `Accuracy by mean cost; the dial is at ${percent(stop.macs_share)} of the static network` +
        ` and ${percent(stop.top1)} right`
      : 'Accuracy by mean cost';
    return isOn;
  }

  return {drawn, turn};
}
