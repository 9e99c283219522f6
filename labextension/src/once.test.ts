/** Websockets that keep from a client what it has had. */

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { onceOnly } from './once.js';
import { legacyFrame, LocalSocket, message, V1, v1Frame } from './testing.js';

/** A client that goes on with another websocket when it has lost one, as JupyterLab does. */
class Client {
  readonly handled: unknown[] = [];

  connect(protocol = V1): LocalSocket {
    const socket = new OnceOnly('ws://localhost/api/kernels/k/channels', protocol);
    socket.onmessage = this.onMessage;
    return socket as unknown as LocalSocket;
  }

  private readonly onMessage = (event: MessageEvent) => {
    this.handled.push(event.data);
  };
}

const OnceOnly = onceOnly(LocalSocket as unknown as typeof WebSocket);
const [zero, one, two] = [v1Frame(message('0')), v1Frame(message('1')), v1Frame(message('2'))];

test('what comes again after a connection was lost is handled once', () => {
  const client = new Client();
  client.connect().receive(zero, one);
  client.connect().receive(one, two);
  client.connect().receive(one, two);
  assert.deepEqual(client.handled, [zero, one, two]);
});

test('so it is in the legacy protocol', () => {
  const [text, binary] = [JSON.stringify(message('0')), legacyFrame(message('1'), new Uint8Array(9))];
  const client = new Client();
  client.connect('').receive(text, binary);
  client.connect('').receive(text, binary);
  assert.deepEqual(client.handled, [text, binary]);
});

test('each client has its own', () => {
  const [here, there] = [new Client(), new Client()];
  here.connect().receive(zero, one);
  there.connect().receive(zero, one);
  assert.deepEqual(there.handled, [zero, one]);
});

test('what came when nobody listened comes again', () => {
  const client = new Client();
  for (const listener of [null, () => {}]) {
    const left = client.connect();
    left.onmessage = listener;
    left.receive(zero);
  }
  client.connect().receive(zero);
  assert.deepEqual(client.handled, [zero]);
});

test('what is no message of a kernel passes', () => {
  const client = new Client();
  for (const _ of [1, 2]) {
    client.connect('').receive('["stdout", "$ "]', '["stdout", "$ "]');
  }
  assert.equal(client.handled.length, 4);
});

test('a class of websockets has the names of the states', () => {
  assert.equal(OnceOnly.OPEN, LocalSocket.OPEN);
});
