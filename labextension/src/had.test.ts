/** What is remembered of the messages that a client has had. */

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { Had, REMEMBERED_BYTES } from './had.js';

const [first, second, third] = [{}, {}, {}];

test('a message of an earlier connection was there before, as often as it comes', () => {
  const had = new Had();
  assert.equal(had.before(first, 'a', 1), false);
  assert.equal(had.before(second, 'a', 1), true);
  assert.equal(had.before(third, 'a', 1), true);
  assert.equal(had.before(third, 'b', 1), false);
  assert.equal(had.count, 2);
});

test('messages of one connection all count, whatever their ids', () => {
  const had = new Had();
  assert.equal(had.before(first, 'a', 1), false);
  assert.equal(had.before(first, 'a', 1), false);
});

test('the oldest are forgotten once the others are as many bytes as may come again', () => {
  const had = new Had(10);
  for (const id of ['a', 'b', 'c', 'd']) {
    had.before(first, id, 4);
  }
  assert.equal(had.count, 3); // 8 bytes would not have been enough
  assert.deepEqual(
    ['d', 'c', 'b', 'a'].map(id => had.before(second, id, 0)),
    [true, true, true, false]
  );
});

test('a message larger than all that may come again is remembered', () => {
  const had = new Had(10);
  had.before(first, 'a', 4);
  had.before(first, 'large', 1000);
  assert.equal(had.count, 1);
  assert.equal(had.before(second, 'large', 1000), true);
});

test('a flood of the smallest messages needs only so much memory', () => {
  const had = new Had();
  const smallest = 500; // ipykernel's have more
  for (let i = 0; i < 100_000; i++) {
    had.before(first, `id ${i}`, smallest);
  }
  assert.equal(had.count, Math.ceil(REMEMBERED_BYTES / smallest));
});
