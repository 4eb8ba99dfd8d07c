// Reads the event feed and shows each event as a row. Whatever it is told becomes text, never markup.
"use strict";

const live = document.getElementById("live");
const LIMIT = 160; // characters of what an event says
const ACKS = { 0: "failed", 1: "pending", 2: "sent", 3: "delivered", 4: "read", 5: "played" };
const REFUSED = [400, 403, 404]; // and no second try would be answered otherwise
const AGAIN_MS = 3000; // a browser gives up where it is refused once; this one asks again

if (live) {
  const rows = document.getElementById("rows");
  const state = document.getElementById("state");
  const pause = document.getElementById("pause");
  const most = Number(live.dataset.rows);
  const heads = [...live.querySelectorAll("thead th")].map((one) => one.textContent);
  let source = null;
  let timer = 0;
  let place = ""; // the last event that was shown, as the feed names it

  function say(word, tone) {
    state.textContent = word;
    state.className = tone ? `badge ${tone}` : "badge";
  }

  function cell(row, text, kind) {
    const made = row.insertCell();
    const inner = document.createElement("bdi");
    inner.textContent = text === null || text === undefined || text === "" ? "–" : String(text);
    made.append(inner);
    if (kind) made.className = kind;
    return made;
  }

  // On a narrow screen a row is a list, in which each cell has the name of its column.
  function stack(row) {
    row.setAttribute("role", "row");
    [...row.cells].forEach((one, at) => {
      one.setAttribute("role", "cell");
      one.dataset.head = heads[at];
    });
  }

  // The one sentence of an event: a text, a status, or how far a message got.
  function said(event) {
    const data = event.data || {};
    const message = data.message || {};
    if (event.type === "message.ack") return ACKS[message.ack] ?? `ack ${message.ack ?? "?"}`;
    const text = message.body ?? (data.ticket || {}).status ?? (data.contact || {}).name ?? (data.campaign || {}).name;
    if (text && typeof text === "object") return "hidden";
    if (!text && Object.values(data).some((one) => one && one.gone === true)) return "gone at WhatSMS";
    const whole = text === null || text === undefined ? "" : String(text);
    return whole.length > LIMIT ? `${whole.slice(0, LIMIT)}…` : whole;
  }

  // A ticket leads to what was said in it, where its tenant is one of the configuration.
  function conversation(made, event) {
    if (!event.ticket_id) return;
    made.title = event.ticket_id;
    if (!event.tenant) return;
    const link = document.createElement("a");
    const asked = new URLSearchParams({ tenant: event.tenant, id: event.ticket_id });
    link.href = `/conversations/ticket?${asked}`;
    link.append(...made.childNodes);
    made.append(link);
  }

  function show(sent) {
    place = sent.lastEventId;
    const event = JSON.parse(sent.data);
    const row = rows.insertRow(0);
    const link = document.createElement("a");
    link.href = `/passport?find=${encodeURIComponent(event.id)}`;
    link.textContent = event.position;
    const first = row.insertCell();
    first.className = "number";
    first.append(link);
    const came = document.createElement("time");
    came.dateTime = event.received_at;
    came.textContent = String(event.received_at).slice(11, 19);
    row.insertCell().append(came);
    cell(row, event.type);
    cell(row, said(event), "says");
    cell(row, event.subject, "id").title = event.subject ?? "";
    conversation(cell(row, event.ticket_id, "id"), event);
    cell(row, event.tenant ?? event.tenant_id);
    stack(row);
    while (rows.rows.length > most) rows.deleteRow(-1);
    document.getElementById("none").hidden = true;
  }

  // What was shown may not be what the log holds, or nobody may read it any more: only a new page helps.
  function stop(why) {
    close();
    pause.disabled = true;
    say(`${why}. Load this page again.`, "bad");
  }

  // A browser does not say why it was refused, so it is asked once more. What is refused for good stops the page.
  async function again(url, tried) {
    const asking = new AbortController();
    try {
      const answer = await fetch(url, { signal: asking.signal });
      if (source !== tried) return;
      if (answer.status === 401) return stop("the session is over");
      if (REFUSED.includes(answer.status)) return stop((await answer.json()).detail);
    } catch {
      // it is away
    } finally {
      asking.abort();
    }
    if (source === tried) timer = setTimeout(open, AGAIN_MS);
  }

  function open() {
    const url = new URL(live.dataset.feed, location.href);
    if (place) url.searchParams.set("after", place);
    const opened = new EventSource(url);
    source = opened;
    source.onopen = () => say("live", "good");
    source.onerror = () => {
      say("away, trying again", "warn");
      if (opened.readyState === EventSource.CLOSED) again(url, opened);
    };
    source.addEventListener(live.dataset.ended, (sent) => {
      const end = JSON.parse(sent.data);
      if (end.reason === "restored") stop(end.detail);
      else say(end.detail, "warn");
    });
    for (const type of live.dataset.types.split(" ")) source.addEventListener(type, show);
  }

  function close() {
    clearTimeout(timer);
    if (source) source.close();
    source = null;
  }

  pause.addEventListener("click", () => {
    const paused = pause.getAttribute("aria-pressed") !== "true";
    pause.setAttribute("aria-pressed", String(paused));
    pause.textContent = paused ? "Go on" : "Pause";
    close();
    if (paused) say("paused: nothing is lost, it goes on where it stopped", "");
    else open();
  });
  addEventListener("pagehide", close);
  open();
}
