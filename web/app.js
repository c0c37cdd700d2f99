"use strict";
/* The history of one model, kept up to date by asking with the ETag of the last answer; where several
 * are served, of the one that is picked. Every text is set as text: messages, names and tokens are
 * other people's words. */

const POLL_MS = 2000, HIDDEN_POLL_MS = 30000, DOWN_POLL_MS = 5000, PAGE = 50;
const MODELS_EVERY = 10; // polls between two looks at which models are served
const $ = (id) => document.getElementById(id);

const state = {
  token: sessionStorage.getItem("token"),
  model: null,          // the name picked; null: the first one
  polls: 0,
  etag: null,
  revisions: new Map(), // by seq
  seen: new Set(),      // seqs shown before: later ones are marked as new
  open: new Set(),      // seqs whose details are shown
  next: null,
  timer: 0,
};

/* ---- asking ---------------------------------------------------------------------------------- */

class Refused extends Error {
  constructor(response, problem) {
    super((problem && (problem.detail || problem.title)) || `Status ${response.status}`);
    this.status = response.status;
    this.retryMs = 1000 * (Number(response.headers.get("Retry-After")) || 0);
  }
}

async function ask(path, headers = {}) {
  if (state.token) headers.Authorization = `Bearer ${state.token}`;
  const response = await fetch(path, { headers, cache: "no-store", credentials: "omit" });
  if (response.status === 304) return { response, body: null };
  const body = await response.json().catch(() => null);
  if (!response.ok) throw new Refused(response, body);
  return { response, body };
}

/* ---- small builders -------------------------------------------------------------------------- */

function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes))
    if (value !== null && value !== undefined) node.setAttribute(name, value);
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

const number = new Intl.NumberFormat("en");
const short = (digest) => digest.replace("sha256:", "").slice(0, 10);
const percent = (share) => `${Math.round(share * 1000) / 10} %`;

function compact(n) {
  return n >= 1e9 ? `${(n / 1e9).toFixed(2)} billion` : n >= 1e6 ? `${(n / 1e6).toFixed(1)} million` : number.format(n);
}

function ago(iso) {
  const s = (Date.now() - Date.parse(iso)) / 1000;
  if (s < 45) return "just now";
  const steps = [[60, "minute"], [3600, "hour"], [86400, "day"], [2592000, "month"], [31536000, "year"]];
  let unit = steps[0];
  for (const step of steps) if (s >= step[0]) unit = step;
  const n = Math.max(1, Math.round(s / unit[0]));
  return `${n} ${unit[1]}${n === 1 ? "" : "s"} ago`;
}

/* Equal digests look equal at a glance: a mirrored 5 × 5 pattern of the first bits. */
function seal(digest) {
  const hex = digest.replace("sha256:", "").slice(0, 8), bits = parseInt(hex, 16) || 0;
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 7 7");
  svg.setAttribute("aria-hidden", "true");
  const hue = bits % 360;
  for (let i = 0; i < 15; i++) {
    if (!(bits >>> (i + 9) & 1)) continue;
    for (const x of new Set([i % 3, 4 - i % 3])) {
      const cell = document.createElementNS("http://www.w3.org/2000/svg", "rect");
      cell.setAttribute("x", x + 1);
      cell.setAttribute("y", Math.floor(i / 3) + 1);
      cell.setAttribute("width", 1);
      cell.setAttribute("height", 1);
      cell.setAttribute("fill", `hsl(${hue} 45% 52%)`);
      svg.append(cell);
    }
  }
  return svg;
}

const digestOf = (digest) =>
  el("span", { class: "digest mono", title: digest }, seal(digest), short(digest));

/* ---- model ----------------------------------------------------------------------------------- */

function showModel(model) {
  $("model-name").textContent = model.name;
  document.title = `${model.name} · engramd`;
  const facts = [
    ["Parameters", compact(model.parameters)],
    ["Layers", number.format(model.layers)],
    ["Heads", `${model.heads} query, ${model.kv_heads} key/value`],
    ["Width", number.format(model.width)],
    ["Context", `${number.format(model.context)} tokens`],
    ["Vocabulary", number.format(model.vocab)],
    ["Base digest", digestOf(model.base_digest)],
    ["Current digest", digestOf(model.head.digest)],
  ];
  $("facts").replaceChildren(...facts.map(([term, value]) => el("div", {}, el("dt", {}, term), el("dd", {}, value))));
  $("model").hidden = false;
}

function pick(name) {
  state.model = name;
  state.etag = state.next = null;
  for (const kept of [state.revisions, state.seen, state.open]) kept.clear();
}

function showPicker(models, current) {
  const picker = $("model-pick"), names = models.map((m) => m.name);
  const shown = [...picker.options].map((option) => option.value);
  if (names.join("\n") !== shown.join("\n"))
    picker.replaceChildren(...names.map((name) => el("option", { value: name }, name)));
  picker.value = current.name;
  picker.hidden = names.length < 2;
}

async function refreshModels() {
  const { body } = await ask("/v1/models");
  const current = body.models.find((m) => m.name === state.model) || body.models[0];
  if (!current) return;
  if (state.model && current.name !== state.model) pick(null); // it was unloaded
  showPicker(body.models, current);
  showModel(current);
}

const query = (more = "") =>
  `/v1/revisions?branch=main&limit=${PAGE}${state.model ? `&model=${encodeURIComponent(state.model)}` : ""}${more}`;

/* ---- history --------------------------------------------------------------------------------- */

function effect(summary) {
  const e = summary && summary.efficacy;
  if (!e || typeof e.after !== "number") return el("span", { class: "muted" }, "–");
  if (typeof e.before !== "number") return el("span", {}, percent(e.after));
  return el("span", {}, `${percent(e.before)} → `, el("span", { class: e.after > e.before ? "up" : null }, percent(e.after)));
}

/* The oldest revision with the same state, if it is an older one. */
function twin(revision, all) {
  for (let i = all.length - 1; i >= 0 && all[i].seq < revision.seq; i--)
    if (all[i].digest === revision.digest) return all[i];
  return null;
}

function summaryLine(name, m) {
  if (!m || typeof m.after !== "number") return null;
  const before = typeof m.before === "number" ? `${percent(m.before)} → ` : "";
  const ci = Array.isArray(m.ci) && m.ci.every((v) => typeof v === "number") ? ` (95 %: ${percent(m.ci[0])} to ${percent(m.ci[1])})` : "";
  return [name, `${before}${percent(m.after)}${ci}`];
}

function details(r) {
  const s = r.summary || {};
  const lines = [
    ["Revision", el("span", { class: "mono" }, r.revision)],
    ["Parent", r.parent ? el("span", { class: "mono" }, r.parent) : "none"],
    r.to ? ["State of", el("span", { class: "mono" }, r.to)] : null,
    r.edit ? ["Edit", el("span", { class: "mono" }, r.edit)] : null,
    r.delta ? ["Delta", el("span", { class: "mono" }, r.delta)] : null,
    ["Digest", el("span", { class: "mono" }, r.digest)],
    ["Author", `${r.author}${r.author_verified ? "" : " (unverified)"}`],
    ["Written", new Date(r.created_at).toLocaleString()],
    typeof s.n === "number" ? ["Facts", number.format(s.n)] : null,
    summaryLine("Efficacy", s.efficacy),
    summaryLine("Exact, teacher-forced", s.tf_exact),
    summaryLine("Paraphrases", s.paraphrase),
    summaryLine("Unrelated unchanged", s.locality),
  ].filter(Boolean);
  const list = el("dl");
  for (const [term, value] of lines) list.append(el("dt", {}, term), el("dd", {}, value));
  return list;
}

function rowsOf(r, all) {
  const open = state.open.has(r.seq), first = r.kind === "base" ? " first-ever" : "";
  const same = twin(r, all), message = r.message || (r.kind === "base" ? "The model as loaded" : "");
  const toggle = el("button", { type: "button", class: "toggle", "aria-expanded": String(open), "aria-label": `Revision ${r.seq}, details`, "data-seq": r.seq }, String(r.seq));
  toggle.addEventListener("click", () => {
    state.open[open ? "delete" : "add"](r.seq);
    draw();
  });
  const row = el("tr", { class: `rev${first}${state.seen.size && !state.seen.has(r.seq) ? " new" : ""}`, "data-kind": r.kind },
    el("td", { class: "c-seq" }, toggle),
    el("td", { class: "c-what" }, el("div", { class: "what" },
      el("span", { class: "kind", "data-kind": r.kind }, r.kind),
      el("span", { class: "message" }, message),
      same ? el("span", { class: "same" }, `The same weights as revision ${same.seq}, to the last bit`) : null)),
    el("td", { class: "c-effect" }, effect(r.summary)),
    el("td", { class: "c-who" }, r.author),
    el("td", { class: "c-when" }, el("time", { datetime: r.created_at, title: new Date(r.created_at).toLocaleString() }, ago(r.created_at))),
    el("td", { class: "c-digest" }, digestOf(r.digest)));
  if (!open) return [row];
  return [row, el("tr", { class: `more${first}` }, el("td", { colspan: 6 }, details(r)))];
}

function draw() {
  const focused = document.activeElement && document.activeElement.dataset.seq;
  const all = [...state.revisions.values()].sort((a, b) => b.seq - a.seq);
  $("rows").replaceChildren(...all.flatMap((r) => rowsOf(r, all)));
  $("count").textContent = `${number.format(all.length)} ${all.length === 1 ? "revision" : "revisions"}${state.next ? " shown" : ""}`;
  $("older").hidden = !state.next;
  $("history").hidden = false;
  for (const r of all) state.seen.add(r.seq);
  if (focused) {
    const again = document.querySelector(`.toggle[data-seq="${CSS.escape(focused)}"]`);
    if (again) again.focus();
  }
}

async function refreshHistory() {
  const headers = state.etag ? { "If-None-Match": state.etag } : {}, model = state.model;
  const { response, body } = await ask(query(), headers);
  if (!body || state.model !== model) return false;
  state.etag = response.headers.get("ETag");
  const known = state.revisions.size > 0, gap = known && !body.revisions.some((r) => state.revisions.has(r.seq));
  if (gap) state.revisions.clear(); // more than a page of news: start over rather than show a hole
  if (!known || gap) state.next = body.next;
  for (const r of body.revisions) state.revisions.set(r.seq, r);
  draw();
  return true;
}

async function showOlder() {
  const model = state.model;
  $("older").disabled = true;
  try {
    const { body } = await ask(query(`&before=${state.next}`));
    if (state.model !== model) return;
    for (const r of body.revisions) {
      state.revisions.set(r.seq, r);
      state.seen.add(r.seq);
    }
    state.next = body.next;
    draw();
  } catch (error) {
    say("down", error.message);
  } finally {
    $("older").disabled = false;
  }
}

/* ---- verify ---------------------------------------------------------------------------------- */

function sayVerified(kind, text) {
  $("verify").dataset.state = kind;
  $("verify-text").textContent = text;
}

async function verify() {
  $("verify-button").disabled = true;
  sayVerified("busy", "Checking the ledger…");
  try {
    const { response, body } = await ask("/v1/audit/verify", { Prefer: "wait=20" });
    if (response.status === 202) sayVerified("busy", "Still checking; ask again in a moment");
    else if (body.ok) sayVerified("ok", `Ledger verified up to revision ${body.seq}`);
    else sayVerified("bad", `Ledger broken: ${body.problem || "the check failed"}`);
  } catch (error) {
    if (error.status === 401) return askForToken();
    sayVerified("bad", error.status ? error.message : "The daemon did not answer");
  } finally {
    $("verify-button").disabled = false;
  }
}

/* ---- the loop -------------------------------------------------------------------------------- */

function say(kind, text) {
  $("live").dataset.state = kind;
  if ($("live-text").textContent !== text) $("live-text").textContent = text;
}

function askForToken() {
  const had = state.token;
  state.token = null;
  sessionStorage.removeItem("token");
  for (const id of ["model", "history"]) $(id).hidden = true;
  if (had) $("gate-text").textContent = "That token was not accepted. Try another.";
  $("gate").hidden = false;
  $("token").focus();
  say("wait", "Waiting for a token");
}

async function tick() {
  clearTimeout(state.timer);
  let wait = document.hidden ? HIDDEN_POLL_MS : POLL_MS;
  try {
    const news = await refreshHistory();
    if (news || state.polls++ % MODELS_EVERY === 0) await refreshModels();
    say("live", "Live");
  } catch (error) {
    if (error.status === 401) return askForToken();
    if (error.status === 404 && state.model) pick(null);
    wait = Math.max(wait, error.retryMs || DOWN_POLL_MS);
    say("down", error.status ? error.message : "The daemon does not answer; trying again");
  }
  clearTimeout(state.timer);
  state.timer = setTimeout(tick, wait);
}

function start() {
  state.etag = null;
  $("gate").hidden = true;
  tick();
}

$("gate-form").addEventListener("submit", (event) => {
  event.preventDefault();
  state.token = $("token").value.trim();
  sessionStorage.setItem("token", state.token);
  $("token").value = "";
  start();
});
$("older").addEventListener("click", showOlder);
$("model-pick").addEventListener("change", (event) => {
  pick(event.target.value);
  tick();
});
$("verify-button").addEventListener("click", verify);
document.addEventListener("visibilitychange", () => {
  if (!document.hidden && $("gate").hidden) tick();
});
setInterval(() => {
  for (const time of document.querySelectorAll("time")) time.textContent = ago(time.dateTime);
}, 30000);
start();
