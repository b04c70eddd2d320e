// Shows a tenant's sandboxes as they change.
import { timestampMs, type Timestamp } from '@bufbuild/protobuf/wkt';
import { createClient } from '@connectrpc/connect';
import { createGrpcWebTransport } from '@connectrpc/connect-web';

import { Phase, Reason, Remedy, SandboxService, type SandboxStatus } from './gen/sandbox/v1/sandbox_pb';
import { watch } from './watch';

const EVENTS_SHOWN = 200;
const REMEDIES: Record<number, string> = {
  [Remedy.WAIT]: 'can pass by itself',
  [Remedy.CALLER]: 'you have to act',
  [Remedy.OPERATOR]: 'the operators have to act',
};

const find = <E extends HTMLElement>(selector: string) => document.querySelector(selector) as E;
const sandboxes = find('#sandboxes');
const events = find('#events');
const server = new URL(find<HTMLMetaElement>('meta[name=sandbox-server]').content, location.href).href;
const client = createClient(SandboxService, createGrpcWebTransport({ baseUrl: server.replace(/\/$/, '') }));
const shown = new Map<string, { status: SandboxStatus; row: HTMLElement }>();
let watching = new AbortController();
let heard = 0; // When the stream last said something, in milliseconds.

/** Makes an element. All text is set as text: nothing that the service says can become markup. */
function element(tag: string, role: string, ...children: (string | Node)[]): HTMLElement {
  const made = document.createElement(tag);
  if (role) made.setAttribute('role', role);
  made.append(...children);
  return made;
}

function toned(phase: Phase): HTMLElement {
  const made = element('span', '', Phase[phase] ?? `phase ${phase}`);
  const still = [Phase.STOPPED, Phase.TERMINATED].includes(phase);
  made.dataset.tone = phase === Phase.RUNNING ? 'good' : phase === Phase.ERROR ? 'bad' : still ? 'still' : 'busy';
  return made;
}

function age(since?: Timestamp): string {
  const seconds = since ? Math.max(0, Math.floor((Date.now() - timestampMs(since)) / 1000)) : 0;
  for (const [unit, length] of [['d', 86400], ['h', 3600], ['m', 60]] as const) {
    if (seconds >= 2 * length) return `${Math.floor(seconds / length)}${unit}`;
  }
  return `${seconds}s`;
}

function why(status: SandboxStatus): string {
  return [Reason[status.reason] ?? `reason ${status.reason}`, REMEDIES[status.remedy]].filter(Boolean).join(' · ');
}

function clear(): void {
  shown.clear();
  sandboxes.replaceChildren();
}

function show(status: SandboxStatus): void {
  const known = shown.get(status.uid)?.row;
  if (status.phase === Phase.TERMINATED) {
    known?.remove();
    shown.delete(status.uid);
    return;
  }
  const row = known ?? element('tr', 'row');
  const place = element('small', '', `${status.namespace} · ${status.project}`);
  row.replaceChildren(
    element('th', 'rowheader', status.sandboxId, place),
    element('td', 'cell', toned(status.phase)),
    element('td', 'cell', age(status.createTime)),
    element('td', 'cell', why(status), element('small', '', status.message)),
  );
  if (!known) {
    row.dataset.name = `${status.namespace}/${status.sandboxId}`;
    const rows = [...sandboxes.children] as HTMLElement[];
    sandboxes.insertBefore(row, rows.find((other) => other.dataset.name! > row.dataset.name!) ?? null);
  }
  shown.set(status.uid, { status, row });
}

function record(status: SandboxStatus): void {
  const time = element('time', '', new Date().toLocaleTimeString());
  const entry = element('li', '', time, `${status.sandboxId} `, toned(status.phase), ` ${why(status)}`);
  entry.dataset.sequence = `${status.sequence}`;
  events.prepend(entry);
  if (events.children.length > EVENTS_SHOWN) events.lastElementChild!.remove();
}

/** Says how the watch is, unless it was said already: a screen reader reads each change aloud. */
function say(state: string, problem = ''): void {
  for (const [place, text] of [['#state', state], ['#problem', problem]] as const) {
    if (find(place).textContent !== text) find(place).textContent = text;
  }
}

async function follow(headers: HeadersInit, signal: AbortSignal): Promise<void> {
  for await (const news of watch(client, headers, signal)) {
    if (news.kind === 'lost') {
      if (news.seconds === undefined) say('Not watching.', news.why);
      else say('Connecting again. What is shown may be old.', news.why);
      continue;
    }
    heard = Date.now();
    say('Watching.');
    if (news.kind === 'snapshot') {
      clear();
      news.statuses.forEach(show);
    } else if (news.kind === 'event') {
      show(news.status);
      record(news.status);
    }
  }
}

/** Shows who the caller is to the service. What is wrong where this fails, the watch says. */
async function greet(headers: HeadersInit, signal: AbortSignal): Promise<void> {
  const { tenant, engine, version } = await client.getCapabilities({}, { headers, signal, timeoutMs: 30_000 });
  find('#who').textContent = `Tenant ${tenant}, ${engine} engine, service ${version}.`;
}

find('form').addEventListener('submit', (submitted) => {
  submitted.preventDefault();
  watching.abort();
  watching = new AbortController();
  clear();
  heard = 0;
  for (const place of ['#events', '#who', '#heard']) find(place).replaceChildren();
  say('Connecting.');
  const token = find<HTMLInputElement>('#token').value.trim();
  const headers: HeadersInit = token ? { authorization: `Bearer ${token}` } : {};
  void follow(headers, watching.signal);
  greet(headers, watching.signal).catch(() => {});
});

setInterval(() => {
  for (const { status, row } of shown.values()) row.children[2].textContent = age(status.createTime);
  if (heard) find('#heard').textContent = `Last word ${Math.floor((Date.now() - heard) / 1000)} s ago.`;
}, 1000);
