// A rehearsal → the 3D view: bodies with their uncertainty, unseen space, zones, the robot, and the motion as a ghost.

import * as THREE from "./three.module.min.js";
import { OrbitControls } from "./orbit_controls.js";

const COLOURS = { named: 0x2f9e5b, obstacle: 0x7d8794, held: 0xe0a100, unseen: 0x6b4fa0, zone: 0xd0342c, slow: 0xd98f00, robot: 0xb9c2cf, ghost: 0x3d8bff, bad: 0xff2a1f, trace: 0xffffff };
const PLAYED_MS = 50;
const IDLE_MS = 200; // between two views of a robot that only moves; where the processor draws them, more would starve the camera

export function makeScene(canvas, moment, momentText, play) {
  const renderer = new THREE.WebGLRenderer({ canvas, antialias: true });
  const world = new THREE.Scene();
  world.background = new THREE.Color(0x20262f);
  world.add(new THREE.HemisphereLight(0xffffff, 0x555566, 2.2));
  const sun = new THREE.DirectionalLight(0xffffff, 1.6);
  sun.position.set(1, -1, 2);
  world.add(sun);
  const camera = new THREE.PerspectiveCamera(45, 4 / 3, 0.01, 20);
  camera.up.set(0, 0, 1);
  camera.position.set(1.5, -1.2, 1.1);
  const controls = new OrbitControls(camera, canvas);
  controls.target.set(0.4, 0, 0.2);
  controls.update();
  const groups = Object.fromEntries(["scene", "robot", "ghost", "traces"].map((name) => [name, new THREE.Group()]));
  world.add(...Object.values(groups));
  const state = { mesh: null, motion: null, rehearsal: null, isDrawn: false, timer: 0, drawn_ms: 0, later: 0 };

  function request() { // drawn only when something has changed: an idle page costs nothing
    if (state.isDrawn) return;
    state.isDrawn = true;
    requestAnimationFrame(() => {
      state.isDrawn = false;
      const { clientWidth: width, clientHeight: height } = canvas.parentElement;
      const size = renderer.getSize(new THREE.Vector2());
      if (width && (size.x !== width || size.y !== height)) {
        renderer.setSize(width, height, false);
        camera.aspect = width / height;
        camera.updateProjectionMatrix();
      }
      state.drawn_ms = performance.now();
      renderer.render(world, camera);
      window.views_drawn = (window.views_drawn ?? 0) + 1; // read by `bench console`
    });
  }

  function requestSoon() {
    if (!state.later) state.later = setTimeout(() => { state.later = 0; request(); }, Math.max(0, state.drawn_ms + IDLE_MS - performance.now()));
  }

  function clear(group) {
    group.traverse((part) => { part.geometry?.dispose(); part.material?.dispose(); part.dispose?.(); });
    group.clear();
  }

  function setMesh(mesh) {
    state.mesh = mesh;
    clear(groups.robot);
    clear(groups.ghost);
    for (const corners of mesh?.links ?? []) {
      for (const [group, colour, opacity] of [[groups.robot, COLOURS.robot, 1], [groups.ghost, COLOURS.ghost, 0.45]]) {
        const geometry = new THREE.BufferGeometry();
        geometry.setAttribute("position", new THREE.BufferAttribute(new Float32Array(corners), 3));
        geometry.computeVertexNormals();
        const link = new THREE.Mesh(geometry, material(colour, opacity));
        link.matrixAutoUpdate = false;
        link.visible = false;
        group.add(link);
      }
    }
    showMoment();
  }

  function place(group, poses) {
    group.children.forEach((link, index) => {
      const p = poses?.[index];
      link.visible = Boolean(p);
      if (p) link.matrix.set(...p, 0, 0, 0, 1);
      link.matrixWorldNeedsUpdate = true;
    });
    group === groups.robot ? requestSoon() : request();
  }

  function setMotion(poses) {
    state.motion = poses;
    setSlider();
  }

  function setSlider() {
    const motion = state.rehearsal?.motion;
    moment.disabled = play.disabled = !motion || !state.motion;
    moment.max = motion?.duration_s ?? 0;
    moment.value = state.rehearsal?.verdict.violations.find((v) => v.time_s !== null)?.time_s ?? 0; // where it was refused
    showMoment();
  }

  function showMoment() {
    const motion = state.rehearsal?.motion;
    if (!motion || !state.motion || state.motion.length !== motion.time_s.length) {
      momentText.textContent = motion ? "the robot's model is not loaded" : "no motion";
      place(groups.ghost, null);
      return;
    }
    const time = Number(moment.value);
    let index = motion.time_s.findIndex((t) => t >= time - 1e-6);
    if (index < 0) index = motion.time_s.length - 1;
    const bad = state.rehearsal.verdict.violations.filter((v) => v.time_s !== null && Math.abs(v.time_s - time) < 0.5 * motion.duration_s / motion.time_s.length + 0.02);
    for (const link of groups.ghost.children) link.material.color.set(bad.length ? COLOURS.bad : COLOURS.ghost);
    momentText.textContent = `${time.toFixed(2)} of ${motion.duration_s.toFixed(2)} s${bad.length ? `: ${bad[0].text.replaceAll("_", " ")}` : ""}`;
    moment.setAttribute("aria-valuetext", momentText.textContent);
    place(groups.ghost, state.motion[index]);
  }

  function setRehearsal(rehearsal) {
    state.rehearsal = rehearsal;
    clear(groups.scene);
    const scene = rehearsal?.scene;
    if (scene) {
      const table = new THREE.Mesh(new THREE.PlaneGeometry(1.6, 1.6), material(0x3c4654, 1));
      table.position.set(0.45, 0, scene.table_height_m - 0.001);
      groups.scene.add(table);
      for (const body of scene.bodies) addBody(body, rehearsal.uncertainty);
      for (const zone of scene.zones) addZone(zone.min_m, zone.max_m, zone.speed_mps > 0 ? COLOURS.slow : COLOURS.zone);
      addUnseen(scene.unseen_m);
    }
    clear(groups.traces);
    for (const trace of rehearsal?.traces ?? []) addTrace(trace, rehearsal.motion?.duration_s || 1);
    setSlider();
  }

  function addBody(body, uncertainty) {
    const colour = body.is_held ? COLOURS.held : body.is_named ? COLOURS.named : COLOURS.obstacle;
    const matrix = new THREE.Matrix4().set(...body.T_base_body);
    const drawn = new THREE.Mesh(shapeOf(body, 0), material(colour, 0.95));
    // As far as it may really reach: twice the standard deviation of its place, and the allowance of its size.
    const around = new THREE.Mesh(shapeOf(body, 2 * uncertainty.position_m + uncertainty.size_m / 2), material(colour, 0.2));
    for (const part of [drawn, around]) {
      part.applyMatrix4(matrix);
      groups.scene.add(part);
    }
  }

  function addTrace(trace, duration_s) { // the tool's way in one roll-out; red from its failure on
    const points = trace.p_base_tool_m, last = points.length - 1;
    if (last < 1) return;
    const failedAt = !trace.failed ? last : Math.min(last, Math.floor((trace.failed_s ?? duration_s) / duration_s * last));
    addLine(points.slice(0, failedAt + 1), trace.failed ? COLOURS.bad : COLOURS.trace, 0.4);
    if (!trace.failed) return;
    addLine(points.slice(failedAt), COLOURS.bad, 0.9);
    const mark = new THREE.Mesh(new THREE.SphereGeometry(0.014, 12, 8), material(COLOURS.bad, 1));
    mark.material.depthTest = false; // what failed is never hidden
    mark.renderOrder = 1;
    mark.position.set(...points[failedAt]);
    groups.traces.add(mark);
  }

  function addLine(points, colour, opacity) {
    if (points.length < 2) return;
    const geometry = new THREE.BufferGeometry().setFromPoints(points.map((p) => new THREE.Vector3(...p)));
    const line = new THREE.Line(geometry, new THREE.LineBasicMaterial({ color: colour, opacity, transparent: true, depthTest: colour !== COLOURS.bad }));
    line.renderOrder = colour === COLOURS.bad ? 1 : 0;
    groups.traces.add(line);
  }

  function addUnseen(boxes) { // hundreds: drawn in one call
    const all = new THREE.InstancedMesh(new THREE.BoxGeometry(), material(COLOURS.unseen, 0.02), boxes.length);
    boxes.forEach(([low, high], index) => {
      const size = high.map((value, axis) => Math.max(value - low[axis], 1e-4));
      const middle = low.map((value, axis) => (value + high[axis]) / 2);
      all.setMatrixAt(index, new THREE.Matrix4().makeScale(...size).setPosition(...middle));
    });
    groups.scene.add(all);
  }

  function addZone(low, high, colour) { // its edges, and a breath of its inside: a zone may be a whole wall
    const size = high.map((value, axis) => Math.max(value - low[axis], 1e-4));
    const box = new THREE.BoxGeometry(...size);
    const edges = new THREE.LineSegments(new THREE.EdgesGeometry(box), new THREE.LineBasicMaterial({ color: colour }));
    for (const part of [new THREE.Mesh(box, material(colour, 0.03)), edges]) {
      part.position.set(...low.map((value, axis) => (value + high[axis]) / 2));
      groups.scene.add(part);
    }
  }

  controls.addEventListener("change", request);
  new ResizeObserver(request).observe(canvas.parentElement);
  moment.addEventListener("input", () => { pause(); showMoment(); });
  play.addEventListener("click", () => (state.timer ? pause() : start()));

  function start() {
    if (Number(moment.value) >= Number(moment.max)) moment.value = 0;
    play.textContent = "Pause";
    state.timer = setInterval(() => {
      moment.value = Number(moment.value) + PLAYED_MS / 1000;
      showMoment();
      if (Number(moment.value) >= Number(moment.max)) pause();
    }, PLAYED_MS);
  }

  function pause() {
    clearInterval(state.timer);
    state.timer = 0;
    play.textContent = "Play";
  }

  canvas.addEventListener("keydown", (event) => { // turn it by keys as well
    const [turn, tilt] = { ArrowLeft: [0.1, 0], ArrowRight: [-0.1, 0], ArrowUp: [0, -0.1], ArrowDown: [0, 0.1] }[event.key] ?? [0, 0];
    if (!turn && !tilt) return;
    event.preventDefault();
    const offset = camera.position.clone().sub(controls.target);
    const flat = Math.hypot(offset.x, offset.y), polar = Math.min(3, Math.max(0.1, Math.atan2(flat, offset.z) + tilt));
    const around = Math.atan2(offset.y, offset.x) + turn, length = offset.length();
    camera.position.set(length * Math.sin(polar) * Math.cos(around), length * Math.sin(polar) * Math.sin(around), length * Math.cos(polar)).add(controls.target);
    controls.update();
    request();
  });

  const setters = { mesh: setMesh, motion: setMotion, rehearsal: setRehearsal, robot: (poses) => place(groups.robot, poses) };
  request();
  return { set: (kind, value) => { setters[kind]?.(value ?? null); if (kind !== "robot") request(); } };
}

function material(color, opacity) {
  return new THREE.MeshLambertMaterial({ color, opacity, transparent: opacity < 1, depthWrite: opacity > 0.5, side: THREE.DoubleSide });
}

function shapeOf(body, grown) {
  const [x, y, z] = body.size_m.map((size) => Math.max(size, 1e-4) + 2 * grown);
  if (body.kind === "sphere") return new THREE.SphereGeometry(x / 2, 24, 16);
  if (body.kind === "cylinder" || (body.kind === "container" && body.is_round)) return new THREE.CylinderGeometry(x / 2, x / 2, z, 32, 1, body.kind === "container" && !grown).rotateX(Math.PI / 2);
  return new THREE.BoxGeometry(x, y, z); // of a hull and an open box: the cuboid around it
}
