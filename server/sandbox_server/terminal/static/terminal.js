"use strict";
// The page of a terminal. The ticket comes from the service itself where calls need no token, else from the page that opened
// this one (a message {ticket: "…"}), or from the form. It travels as a WebSocket subprotocol and is kept in no URL.

const PROTOCOL = "terminal.sandbox.v1";
const AGAIN_MOST = 5000; // milliseconds between two attempts to come back
const PENDING_MOST = 1 << 20; // bytes that were typed and are not known to have arrived
const PART = 1 << 14; // bytes of a message

const [, , namespace, sandbox] = location.pathname.split("/").map(decodeURIComponent);
const element = (id) => document.getElementById(id);
const terminal = new Terminal({ cursorBlink: true, scrollback: 10000 });
const fit = new FitAddon.FitAddon();
terminal.loadAddon(fit);
terminal.open(element("screen"));
fit.fit();
document.title = `${sandbox} – terminal`;

let socket = null;
let ticket = null; // the next one to show
let shown = 0; // bytes of output
let accepted = 0; // bytes of input that have arrived
let pending = []; // bytes of input after these
let ended = false;
let begun = false; // whether the service has answered on this connection
let delay = 0; // before the next attempt to come back

function notice(words, another) {
  element("words").textContent = words;
  element("notice").hidden = words === "";
  element("another").hidden = !another;
  fit.fit();
}

function end(words) {
  ended = true;
  notice(words, true);
}

function size() {
  return { rows: terminal.rows, cols: terminal.cols };
}

function connect() {
  const scheme = location.protocol === "https:" ? "wss:" : "ws:";
  socket = new WebSocket(`${scheme}//${location.host}/attach`, [PROTOCOL, `ticket.${ticket}`]);
  begun = false;
  socket.binaryType = "arraybuffer";
  socket.onopen = () => socket.send(JSON.stringify({ ...size(), offset: shown }));
  socket.onmessage = ({ data }) => (typeof data === "string" ? told(JSON.parse(data)) : show(new Uint8Array(data)));
  socket.onclose = lost;
}

function show(bytes) {
  shown += bytes.length;
  terminal.write(bytes);
}

function told(message) {
  if ("accepted" in message) {
    pending = pending.slice(Math.max(0, message.accepted - accepted));
    accepted = message.accepted;
    if (!begun) {
      // What had not arrived before a cut is sent again.
      begun = true;
      delay = 250;
      notice("", false);
      send(pending);
    }
  } else if ("again" in message) {
    ticket = message.again;
  } else if ("gap" in message) {
    shown += message.gap;
    terminal.write(`\r\n[${message.gap} bytes of output are no longer kept]\r\n`);
  } else if ("ended" in message) {
    end(message.ended);
  }
}

function lost() {
  socket = null;
  if (ended) return;
  notice("The connection was lost. Coming back …", false);
  setTimeout(connect, delay);
  delay = Math.min(delay * 2, AGAIN_MOST);
}

function open() {
  return begun && socket !== null && socket.readyState === WebSocket.OPEN;
}

function send(bytes) {
  for (let at = 0; at < bytes.length; at += PART) socket.send(Uint8Array.from(bytes.slice(at, at + PART)));
}

function type(bytes) {
  if (ended) return;
  if (pending.length + bytes.length > PENDING_MOST) {
    return notice("Too much was typed or pasted at once, and was left out.", false);
  }
  pending = pending.concat(Array.from(bytes));
  if (open()) send(bytes);
}

const encoder = new TextEncoder();
terminal.onData((text) => type(encoder.encode(text)));
terminal.onBinary((text) => type(Uint8Array.from(text, (one) => one.charCodeAt(0))));
terminal.onResize(() => {
  if (open()) socket.send(JSON.stringify(size()));
});
let resized = 0;
addEventListener("resize", () => {
  clearTimeout(resized);
  resized = setTimeout(() => fit.fit(), 100);
});

function ask(words) {
  notice(words, false);
  element("ask").hidden = false;
  element("ticket").focus();
}

function begin(given) {
  if (socket || !given) return;
  ticket = given;
  element("ask").hidden = true;
  notice("", false);
  terminal.reset();
  [shown, accepted, pending, ended, delay] = [0, 0, [], false, 250];
  connect();
  terminal.focus();
}

async function fetched() {
  const path = `/terminals/${encodeURIComponent(namespace)}/${encodeURIComponent(sandbox)}/ticket`;
  let answer;
  try {
    answer = await fetch(path, { method: "POST" });
  } catch {
    return end("The service does not answer.");
  }
  if (answer.status === 401) {
    if (window.opener) window.opener.postMessage({ terminal: "ready" }, "*");
    if (window.parent !== window) window.parent.postMessage({ terminal: "ready" }, "*");
    return ask("This service needs a ticket.");
  }
  if (!answer.ok) return end("There is no such sandbox.");
  const { ticket: given, refused } = await answer.json();
  if (refused) return end(refused);
  begin(given);
}

element("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  begin(element("ticket").value.trim());
  element("ticket").value = "";
});
element("another").addEventListener("click", fetched);
addEventListener("message", ({ data }) => {
  if (data && typeof data.ticket === "string") begin(data.ticket);
});
fetched();
