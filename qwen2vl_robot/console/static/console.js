// The newest values of each robot → the page; a person's words, yes, no, stop and reset → the server.
// What comes from the graph is set as text, never as HTML.

const token = takeToken();
const at = (id) => document.getElementById(id);
const robots = []; // by index: {kind: value}
let shown = 0;
let socket = null;
let scene = null; // the 3D view, once its module is there

function takeToken() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given) {
    sessionStorage.setItem("token", given);
    history.replaceState(null, "", location.pathname);
  }
  return given || sessionStorage.getItem("token") || "";
}

// ------------------------------------------------------------------------------------------ connection

function connect() {
  socket = new WebSocket(`ws://${location.host}/api/live`, [`token.${token || "none"}`]);
  socket.binaryType = "arraybuffer";
  socket.onmessage = (event) => (typeof event.data === "string" ? take(JSON.parse(event.data)) : takePicture(event.data));
  socket.onopen = () => connection("connected", false);
  socket.onclose = async () => {
    connection("NOT CONNECTED: Stop does not reach the robot from here", true);
    try {
      const answer = await fetch("/api/live", { headers: { Authorization: `Bearer ${token}` } });
      if (answer.status === 401 || answer.status === 503) warn((await answer.json()).error);
      if (answer.status === 401) return; // trying again would not help
    } catch { /* the server is gone; it may come back */ }
    setTimeout(connect, 1000);
  };
}

function connection(text, isBad) {
  at("connection").textContent = text;
  at("connection").classList.toggle("bad", isBad);
}

function take(message) {
  if (message.kind === "robots") {
    message.value.forEach((name, index) => (robots[index] = { name }));
    showRobots();
    return;
  }
  robots[message.robot][message.kind] = message.value;
  if (message.robot === shown) show(message.kind);
  else if (message.kind === "status") showRobots();
}

async function command(path, body) {
  try {
    const answer = await fetch(path, {
      method: "POST", keepalive: true, body: JSON.stringify(body),
      headers: { Authorization: `Bearer ${token}`, "Content-Type": "application/json" },
    });
    const given = await answer.json();
    if (!answer.ok) throw new Error(given.error);
    warn("");
    return given;
  } catch (error) {
    warn(error instanceof TypeError ? "the console's server does not answer; use the robot's own emergency stop" : error.message);
    return null;
  }
}

const toRobot = (name, body) => command(`/api/robots/${shown}/${name}`, body);

function warn(text) {
  at("alert").textContent = text;
}

// ------------------------------------------------------------------------------------------- commands

async function stop() {
  at("answer").textContent = "stop is sent …";
  const given = await command("/api/stop", {});
  if (given) at("answer").textContent = Object.entries(given.answers).map(([name, text]) => `${name} ${text}`).join("; ");
}

const isTyping = (element) => element instanceof HTMLElement && element.matches("input:not([type=range]), textarea, select, [contenteditable]");

for (const kind of ["keydown", "keyup"]) {
  document.addEventListener(kind, (event) => {
    if (kind === "keydown" && event.key === "Escape" && isTyping(event.target)) event.target.blur();
    if (event.code !== "Space" || (isTyping(event.target) && !event.ctrlKey)) return;
    event.preventDefault(); // also what the space bar would press
    event.stopPropagation();
    if (kind === "keydown" && !event.repeat) stop();
  }, true);
}

at("stop").addEventListener("click", stop);

async function say(text) {
  at("answer").textContent = "sent …";
  const given = await toRobot("say", { text });
  at("answer").textContent = given ? given.answer : "";
  return given !== null;
}

at("say").addEventListener("submit", async (event) => {
  event.preventDefault();
  if (await say(at("instruction").value)) at("instruction").value = "";
});

at("approve").addEventListener("click", async () => {
  at("approve").disabled = true;
  const given = await toRobot("approve", { digest: at("approve").dataset.digest });
  at("approve").disabled = false;
  if (given) at("answer").textContent = given.answer;
});

at("reject").addEventListener("submit", async (event) => {
  event.preventDefault();
  const given = await toRobot("reject", { digest: at("approve").dataset.digest, reason: at("reject-reason").value });
  if (given) {
    at("answer").textContent = given.answer;
    at("reject-reason").value = "";
  }
});

at("reset").addEventListener("click", () => {
  at("reset-cause").textContent = robots[shown].status.stopped_by;
  at("reset-dialog").showModal();
});
at("reset-no").addEventListener("click", () => at("reset-dialog").close());
at("reset-yes").addEventListener("click", async () => {
  at("reset-dialog").close();
  const given = await toRobot("reset", { stopped_by: at("reset-cause").textContent });
  if (given) at("answer").textContent = given.answer;
});

// -------------------------------------------------------------------------------------------- showing

const plain = (word) => String(word).replaceAll("_", " ");
const mm = (metres) => (1000 * metres).toFixed(0);

function items(id, texts, mark = () => {}) {
  at(id).replaceChildren(...texts.map((text, index) => {
    const item = document.createElement("li");
    item.textContent = text;
    mark(item, index);
    return item;
  }));
}

function showRobots() {
  at("robots").hidden = robots.length < 2;
  at("robots").replaceChildren(...robots.map((robot, index) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = robot.name + (robot.status ? `: ${plain(robot.status.state)}` : "");
    button.setAttribute("aria-pressed", String(index === shown));
    button.addEventListener("click", () => choose(index));
    return button;
  }));
}

function choose(index) {
  shown = index;
  showRobots();
  picture.transferFromImageBitmap(null);
  for (const kind of Object.keys(shows)) show(kind);
}

function show(kind) {
  if (shows[kind]) shows[kind](robots[shown][kind], robots[shown]);
}

const shows = {
  heard: (isHeard) => {
    at("connection").textContent = isHeard === false ? "connected; no controller is heard" : "connected";
    at("connection").classList.toggle("bad", isHeard === false);
  },
  status: showStatus,
  verdict: showVerdict,
  rehearsal: (rehearsal, robot) => { showBodies(rehearsal); showVerdict(robot.verdict, robot); showExamples(robot); draw(["rehearsal"]); },
  plan: (plan, robot) => { items("plan", (plan?.actions ?? []).map(describeAction)); showBoxes(robot); showExamples(robot); },
  diagnostics: (parts) => items("diagnostics", (parts ?? []).map((p) => `${["ok", "warning", "error", "stale"][p.level] ?? p.level}: ${p.name}: ${p.text}`),
    (item, index) => item.classList.toggle("bad", parts[index].level > 0)),
  log: showLog,
  mesh: () => draw(["mesh"]),
  robot: () => draw(["robot"]),
  motion: () => draw(["motion"]),
};

function showStatus(status, robot) {
  at("reset").hidden = !status?.stopped_by;
  at("state").textContent = !status ? "nothing heard yet"
    : `${plain(status.state)}${status.doing && status.state === "working" ? `: ${plain(status.doing)}` : ""}` +
      `${status.instruction ? ` – ${status.instruction}` : ""}${status.stopped_by ? ` – ${status.stopped_by}` : ""}`;
  at("state").className = status?.stopped_by ? "bad" : "";
  const task = status?.last_task;
  at("task").textContent = task ? `${task.instruction}: ${plain(task.outcome)}` : "none yet";
  items("steps", task ? [...task.steps.map((s) => [`${s.action}: ${plain(s.outcome)}`, ...s.reasons].join(" – ")), ...(task.steps.length ? [] : task.reasons)] : []);
  showQuestion(robot);
  showChoices(task);
  showRobots();
}

function showQuestion(robot) {
  const { status, verdict } = robot;
  const isAsked = Boolean(status?.awaits && verdict?.digest === status.awaits);
  at("question").hidden = !isAsked;
  if (!isAsked) return;
  at("question-text").textContent = `The robot will ${inWords(verdict.action)}` +
    `${verdict.duration_s === null ? "" : `, ${verdict.duration_s.toFixed(1)} s of motion`}; the twin rehearsed it and found nothing against it.`;
  items("doubts", verdict.doubts.map((d) => `a person is asked because ${d}`));
  at("digest").textContent = verdict.digest.slice(0, 16);
  at("approve").dataset.digest = verdict.digest; // the yes is to what is shown, never to what came since
}

const STEPS = { hold: (name) => `pick up the ${name}`, release: (name) => `put the ${name} down`, push: (name) => `push the ${name}`, show: () => "show the arm to the camera", none: () => "move the arm" };

function inWords(action) {
  const [, kind, name] = action.match(/^(\S+)\s*(.*)$/) ?? [];
  return STEPS[kind]?.(name) ?? action;
}

function showChoices(task) {
  const text = task?.outcome === "asked" ? task.reasons.join(" ") : "";
  const numbered = [...text.matchAll(/\b(\d{1,2})[.:)] ([^;,?\n]+)/g)].slice(0, 9);
  at("choices").hidden = !numbered.length;
  const words = ["first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth"];
  at("choice-list").replaceChildren(...numbered.map((match, index) => {
    const item = document.createElement("li");
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = match[2];
    button.addEventListener("click", () => say(`the ${words[index]} one`));
    item.append(button);
    return item;
  }));
}

function showVerdict(verdict, robot) {
  at("verdict").textContent = !verdict ? "none yet" : `${verdict.action}: ${verdict.accepted ? "accepted" : "refused"}, rehearsed in ${verdict.rehearsal_s.toFixed(2)} s`;
  at("verdict").className = !verdict ? "" : verdict.accepted ? "good" : "bad";
  items("violations", verdict?.violations.map((v) => plain(v.text)) ?? []);
  const same = robot.rehearsal && verdict && robot.rehearsal.verdict.digest === verdict.digest ? robot.rehearsal : null;
  at("trials").textContent = [same?.explanation, same?.trials ? `${same.trials.successes} of ${same.trials.count} perturbed roll-outs succeeded ` +
    `(at least ${(100 * same.trials.lower_bound).toFixed(0)} % with confidence; needed ${(100 * same.trials.threshold).toFixed(0)} %)` : ""].filter(Boolean).join(" ");
  showQuestion(robot);
}

const describeAction = (a) => [a.verb, a.relation && plain(a.relation), a.object?.label, a.direction, a.seconds && `${a.seconds} s`, a.text].filter(Boolean).join(" ");

function showBoxes(robot) {
  const boxes = (robot.plan?.actions ?? []).flatMap((a) => (a.object?.boxes ?? []).map((box) => [a.object.label, box]));
  const rect = ([, [x0, y0, x1, y1]]) => {
    const drawn = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    for (const [name, value] of Object.entries({ x: x0, y: y0, width: x1 - x0, height: y1 - y0 })) drawn.setAttribute(name, value);
    return drawn;
  };
  at("boxes").replaceChildren(...boxes.map(rect));
  at("labels").replaceChildren(...boxes.map(([label, [x0, y0]]) => {
    const drawn = document.createElement("span");
    drawn.textContent = label;
    drawn.style.left = `${x0 / 10}%`;
    drawn.style.top = `${y0 / 10}%`;
    return drawn;
  }));
}

function showExamples(robot) {
  const labels = [...new Set([...(robot.rehearsal?.scene?.bodies ?? []).filter((b) => b.is_named).map((b) => b.name),
    ...(robot.plan?.actions ?? []).map((a) => a.object?.label).filter(Boolean)])].slice(0, 4);
  const texts = labels.length ? labels.slice(0, 2).map((l) => `pick up the ${l}`) : ["what is on the table?"];
  if (labels.length > 1) texts.push(`put the ${labels[0]} next to the ${labels[1]}`);
  texts.push("go home");
  at("examples").replaceChildren(...texts.map((text) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = text;
    button.addEventListener("click", () => { at("instruction").value = text; at("instruction").focus(); });
    return button;
  }));
}

function showBodies(rehearsal) {
  const bodies = rehearsal?.scene?.bodies ?? [];
  const u = rehearsal?.uncertainty;
  at("bodies").replaceChildren(...bodies.map((b) => {
    const row = document.createElement("tr");
    const cells = [b.name + (b.is_held ? " (held)" : ""), b.kind, b.size_m.map(mm).join(" × "), [3, 7, 11].map((i) => mm(b.T_base_body[i])).join(", ")];
    row.append(...cells.map((text) => Object.assign(document.createElement("td"), { textContent: text })));
    return row;
  }));
  at("twin-note").textContent = !u ? "" : `Each place is known to ${mm(2 * u.position_m)} mm (95 %), each size to ${mm(u.size_m)} mm, the camera to ${mm(u.camera_m)} mm.` +
    (rehearsal.scene?.unseen_m.length ? ` ${rehearsal.scene.unseen_m.length} boxes of unseen space.` : "") + (rehearsal.scene?.left_out ? ` ${rehearsal.scene.left_out} not shown.` : "");
}

function showLog(lines) {
  const log = at("log-box");
  const isAtEnd = log.scrollTop + log.clientHeight > log.scrollHeight - 30;
  items("log", (lines ?? []).map((line) => line.text), (item, index) => {
    const time = document.createElement("time");
    time.textContent = new Date(1000 * lines[index].at_s).toLocaleTimeString();
    item.prepend(time);
  });
  if (isAtEnd) log.scrollTop = log.scrollHeight;
}

// --------------------------------------------------------------------------------------------- picture

let isDecoding = false;
const picture = at("picture").getContext("bitmaprenderer");
window.frames_shown = 0; // read by `bench console`

async function takePicture(data) {
  if (new Uint8Array(data, 0, 1)[0] !== shown || isDecoding) return; // the next one is newer
  isDecoding = true;
  try {
    const bitmap = await createImageBitmap(new Blob([new Uint8Array(data, 1)], { type: "image/jpeg" }));
    picture.transferFromImageBitmap(bitmap);
    at("camera-note").textContent = robots[shown].plan ? "live; the boxes are those of the latest plan" : "live";
    window.frames_shown += 1;
  } finally {
    isDecoding = false;
  }
}

// -------------------------------------------------------------------------------------------------- 3D

function draw(kinds) {
  if (scene && robots[shown]) for (const kind of kinds) scene.set(kind, robots[shown][kind], robots[shown]);
}

connect();
showExamples({});
requestAnimationFrame(() => setTimeout(async () => { // after the first paint: it is large
  try {
    scene = (await import("./scene.js")).makeScene(at("view"), at("moment"), at("moment-text"), at("play"));
    draw(["mesh", "rehearsal", "motion", "robot"]);
  } catch (error) {
    at("twin-note").textContent = `This browser cannot draw the 3D view (${error.message}); the table says the same.`;
  }
}));
