// An engine that finds the brightness of images, without any code of HarmonicIO's own.
//
//     node engine.js [FILE]      FILE holds the configuration, and is removed; without it: see README.md
//
// What it throws is the message's failure: another attempt is made, unless the error has `retryable = false`.
'use strict';
const { run } = require('./daemon.js');

/** Return the brightness of an image of 8 bits, above the background that its metadata may state. */
function handle(pixels, { background = 0 }) {
  if (typeof background !== 'number') throw new TypeError(`The background is a ${typeof background}, not a number.`);
  if (!pixels.length) return { count: 0, mean: null, min: null, max: null };
  let [sum, min, max] = [0, 255, 0];
  for (const value of pixels) [sum, min, max] = [sum + value, Math.min(min, value), Math.max(max, value)];
  return { count: pixels.length, mean: sum / pixels.length - background, min: min - background, max: max - background };
}

run(handle);
