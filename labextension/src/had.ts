/** What a client has had, as far as the server may send it again. */

/**
 * Of so much the ids are remembered: twice what the server sends without knowing that it has
 * arrived (`LIMIT_BYTES` in `backendai_jupyter/web/window.py`).  Once is what it has no answer
 * for when it ends, and once what it had, and could not pass on to the kernel's relay.
 */
export const REMEMBERED_BYTES = 2 * (8 << 20);

interface IMessage {
  readonly connection: object;
  readonly size: number;
}

export class Had {
  constructor(private readonly limit = REMEMBERED_BYTES) {}

  /** How many messages are remembered. */
  get count(): number {
    return this.messages.size;
  }

  /**
   * Take note of a message, and return whether it came before on another connection.
   *
   * None comes twice on the same one: if a kernel gives two of them the same id, both count.
   */
  before(connection: object, id: string, size: number): boolean {
    const earlier = this.forget(id);
    this.messages.set(id, { connection, size });
    this.size += size;
    for (const [oldest, message] of this.messages) {
      if (this.size - message.size < this.limit) {
        break;
      }
      this.forget(oldest);
    }
    return earlier !== undefined && earlier.connection !== connection;
  }

  private forget(id: string): IMessage | undefined {
    const message = this.messages.get(id);
    if (message !== undefined) {
      this.messages.delete(id);
      this.size -= message.size;
    }
    return message;
  }

  private readonly messages = new Map<string, IMessage>(); // the oldest first
  private size = 0;
}
