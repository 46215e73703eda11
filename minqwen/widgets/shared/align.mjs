// Two texts word by word: which tokens of one are which of the other.

const CELLS = 4e6; // of the table for what lies between a common beginning and end

/** Places of the tokens that two lists share, in the same order: [in a, in b], Int32Arrays.
 * A longest common subsequence, unless the part that differs is too long for one. */
export function align(a, b) {
  const most = Math.min(a.length, b.length);
  let [start, end] = [0, 0];
  while (start < most && a[start] === b[start]) start++;
  while (end < most - start && a[a.length - 1 - end] === b[b.length - 1 - end]) end++;
  const [n, m] = [a.length - start - end, b.length - start - end];
  const pairs = Array.from({ length: start }, (_, i) => [i, i]);
  if (n * m <= CELLS) pairs.push(...between(a, b, start, n, m));
  for (let i = end; i > 0; i--) pairs.push([a.length - i, b.length - i]);
  return [0, 1].map((side) => Int32Array.from(pairs, (each) => each[side]));
}

/** The pairs of n tokens of `a` and m of `b`, both from `start` on. */
function between(a, b, start, n, m) {
  const lengths = new Uint16Array((n + 1) * (m + 1)); // of what is common from (i, j) on
  const at = (i, j) => i * (m + 1) + j;
  const same = (i, j) => a[start + i] === b[start + j];
  for (let i = n - 1; i >= 0; i--)
    for (let j = m - 1; j >= 0; j--)
      lengths[at(i, j)] = same(i, j)
        ? lengths[at(i + 1, j + 1)] + 1
        : Math.max(lengths[at(i + 1, j)], lengths[at(i, j + 1)]);
  const pairs = [];
  for (let i = 0, j = 0; i < n && j < m;) {
    if (same(i, j)) pairs.push([start + i++, start + j++]);
    else if (lengths[at(i + 1, j)] >= lengths[at(i, j + 1)]) i++;
    else j++;
  }
  return pairs;
}
