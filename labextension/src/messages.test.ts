/** The ids of messages in the protocols of kernel websockets. */

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { idOf, sizeOf } from './messages.js';
import { legacyFrame, message, V1, v1Frame } from './testing.js';

test('a message of the v1 protocol', () => {
  assert.equal(idOf(v1Frame(message('é-1')), V1), 'é-1');
});

test('a message of the v1 protocol with buffers', () => {
  const frame = v1Frame(message('1'), new Uint8Array([0, 255]), new Uint8Array(1000));
  assert.equal(idOf(frame, V1), '1');
  assert.equal(sizeOf(frame), frame.byteLength);
});

test('a message of the legacy protocol', () => {
  const text = JSON.stringify(message('1'));
  assert.equal(idOf(text, ''), '1');
  assert.equal(sizeOf(text), text.length);
});

test('a message of the legacy protocol with buffers', () => {
  assert.equal(idOf(legacyFrame(message('é-1'), new Uint8Array([0, 255])), ''), 'é-1');
});

const broken = v1Frame(message('1')).slice(0, 60);

for (const [name, data, protocol] of [
  ['nothing', '', ''],
  ['no JSON', '{', ''],
  ['null', 'null', ''],
  ['no message', '["stdout", "a terminal speaks"]', ''],
  ['no id', '{"header": {}}', ''],
  ['an id that is none', '{"header": {"msg_id": 1}}', ''],
  ['an empty frame', new ArrayBuffer(0), ''],
  ['an empty v1 frame', new ArrayBuffer(0), V1],
  ['a text in place of a v1 frame', '{}', V1],
  ['half a v1 frame', broken, V1],
  ['offsets that point nowhere', new Uint8Array(100).fill(255).buffer, V1]
] as const) {
  test(`no id: ${name}`, () => {
    assert.equal(idOf(data, protocol), undefined);
  });
}
