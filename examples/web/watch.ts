// Watches all sandboxes of a tenant across lost connections, with nothing missing and nothing twice.
import { Code, ConnectError, type Client } from '@connectrpc/connect';

import { ErrorInfoSchema, RetryInfoSchema } from './gen/google/rpc/error_details_pb';
import { SandboxService, type SandboxStatus } from './gen/sandbox/v1/sandbox_pb';

export type News =
  /** All sandboxes as they are: at first, and again where the history is no longer kept. */
  | { kind: 'snapshot'; statuses: SandboxStatus[] }
  /** One change of a sandbox. */
  | { kind: 'event'; status: SandboxStatus }
  /** Nothing happened for a while. */
  | { kind: 'heartbeat' }
  /** The stream is lost. It is opened again after some seconds, without them never. */
  | { kind: 'lost'; why: string; seconds?: number };

const FIRST_DELAY = 0.5;
const LONGEST_DELAY = 15;
/** Errors that the same call gets again. */
const FINAL = [Code.Unauthenticated, Code.PermissionDenied, Code.InvalidArgument, Code.NotFound, Code.Unimplemented];

export async function* watch(
  client: Client<typeof SandboxService>,
  headers: HeadersInit,
  signal: AbortSignal,
): AsyncGenerator<News> {
  let after: bigint | undefined; // Unset until a snapshot is complete: only from there on a watch can be resumed.
  let heartbeat = 15;
  let delay = FIRST_DELAY;
  while (!signal.aborted) {
    const silent = new AbortController();
    let timer = 0;
    const heard = () => {
      clearTimeout(timer);
      timer = setTimeout(() => silent.abort(), 2 * heartbeat * 1000);
    };
    const snapshot: SandboxStatus[] = [];
    let error = new ConnectError('the stream ended', Code.Unavailable);
    try {
      heard();
      const options = { headers, signal: AbortSignal.any([signal, silent.signal]) };
      for await (const { event, sequence } of client.watchStatus({ afterSequence: after }, options)) {
        if (event.case === 'snapshotComplete') heartbeat = event.value.heartbeatSeconds;
        heard();
        delay = FIRST_DELAY;
        if (event.case === 'status' && after === undefined) {
          snapshot.push(event.value);
          continue;
        }
        after = sequence;
        if (event.case === 'snapshotComplete') {
          yield { kind: 'snapshot', statuses: snapshot };
        } else if (event.case === 'status') {
          yield { kind: 'event', status: event.value };
        } else {
          yield { kind: 'heartbeat' };
        }
      }
    } catch (reason) {
      error = silent.signal.aborted ? new ConnectError('it has gone silent') : ConnectError.from(reason);
    } finally {
      clearTimeout(timer);
      silent.abort();
    }
    if (signal.aborted) return;
    if (error.code === Code.OutOfRange) {
      after = undefined; // The history is no longer kept, or the service has another one: begin with a snapshot.
      continue;
    }
    if (FINAL.includes(error.code)) {
      yield { kind: 'lost', why: words(error) };
      return;
    }
    const asked = Number(error.findDetails(RetryInfoSchema)[0]?.retryDelay?.seconds ?? 0);
    const seconds = asked + delay * (0.5 + Math.random() / 2);
    yield { kind: 'lost', why: words(error), seconds };
    await new Promise((resolve) => setTimeout(resolve, seconds * 1000));
    delay = Math.min(2 * delay, LONGEST_DELAY);
  }
}

/** Says what went wrong. The service's errors have an ErrorInfo; those of a proxy or the network have none. */
export function words(error: ConnectError): string {
  const [info] = error.findDetails(ErrorInfoSchema);
  if (info === undefined) return `The service cannot be reached: ${error.rawMessage}`;
  const reference = info.metadata.reference ? ` (reference ${info.metadata.reference})` : '';
  return `${info.reason}: ${error.rawMessage}${reference}`;
}
