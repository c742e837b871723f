// The volume viewer: NiiVue and the volumes are in this page, packed by gzip.
(() => {
  const root = document.getElementById("viewer");
  if (!root) return;
  const data = JSON.parse(document.getElementById("viewer-data").textContent);
  const place = root.querySelector(".place"), canvas = root.querySelector("canvas");
  const layerTools = root.querySelector(".layers"), planeTools = root.querySelector(".planes");
  const select = root.querySelector("select"), note = root.querySelector(".case-note");
  const legend = root.querySelector(".legend");
  const shown = new Map(data.layers.map((layer) => [layer.kind, layer.shown]));
  let view, kit, current = null, opening = 0, drag = "move", plane = "all";

  const unpacked = async (id) => {
    const text = document.getElementById(id).textContent;
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).arrayBuffer();
  };
  const colors = (list) => ({
    I: list.map((_, i) => i), A: list.map((_, i) => (i ? 255 : 0)),
    R: list.map((c) => c[0]), G: list.map((c) => c[1]), B: list.map((c) => c[2]),
    labels: list.map((c) => c[3]),
  });
  const volumeOf = async (item, spec) => {
    const volume = await kit.NVImage.new(
      await unpacked(item.id), `${spec.kind}.nii`, spec.kind === "uncertainty" ? "inferno" : "gray", 1
    );
    if (spec.colors) volume.setColormapLabel(colors(spec.colors));
    if (spec.kind === "image" && item.window) [volume.cal_min, volume.cal_max] = item.window;
    if (spec.kind === "uncertainty") [volume.cal_min, volume.cal_max] = [0.02, 1];
    return volume;
  };
  const button = (parent, text, key, pressed, act) => {
    const made = document.createElement("button"), hint = document.createElement("kbd");
    made.type = "button";
    hint.textContent = key;
    made.append(`${text} `, hint);
    made.setAttribute("aria-pressed", pressed);
    made.addEventListener("click", () => { act(); canvas.focus({ preventScroll: true }); });
    parent.append(made);
    return made;
  };
  const present = () => data.layers.filter((spec) => current.items[spec.kind]);
  const buttons = new Map();

  const paint = () => {
    if (!current || !current.volumes) return;
    present().forEach((spec, i) => {
      const opacity = shown.get(spec.kind) ? spec.opacity : 0;
      if (view.volumes[i] && view.volumes[i].opacity !== opacity) view.setOpacity(i, opacity);
    });
    buttons.forEach((made, kind) => made.setAttribute("aria-pressed", shown.get(kind)));
  };
  const toggle = (kind) => { shown.set(kind, !shown.get(kind)); paint(); };
  const setPlane = (name) => {
    plane = name;
    const kinds = { all: "MULTIPLANAR", axial: "AXIAL", coronal: "CORONAL", sagittal: "SAGITTAL" };
    view.setSliceType(kit.SLICE_TYPE[kinds[current.flat ? "axial" : name]]);
    for (const made of planeTools.querySelectorAll("[data-plane]")) {
      made.setAttribute("aria-pressed", made.dataset.plane === name);
    }
  };
  const setDrag = (mode) => {
    drag = mode;
    const modes = kit.DRAG_MODE;
    view.setMouseEventConfig({
      leftButton: { primary: mode === "window" ? modes.windowing : modes.crosshair,
        withShift: modes.windowing, withCtrl: modes.measurement },
      rightButton: modes.windowing, centerButton: modes.pan,
    });
    view.opts.touchEventConfig = {
      singleTouch: mode === "window" ? modes.windowing : modes.crosshair, doubleTouch: modes.pan,
    };
    planeTools.querySelector("[data-drag]").setAttribute("aria-pressed", mode === "window");
  };
  const resetWindow = () => {
    const i = view.volumes.findIndex((volume) => volume.name === "image.nii");
    const wanted = current.items.image && current.items.image.window;
    if (i < 0 || !wanted) return;
    [view.volumes[i].cal_min, view.volumes[i].cal_max] = wanted;
    view.updateGLVolume();
  };
  const where = (location) => {
    if (!current || !location.values) return;
    const words = present().map((spec, i) => {
      const value = location.values[i] ? location.values[i].value : 0;
      if (spec.colors) return `${spec.title}: ${(spec.colors[Math.round(value)] || spec.colors[0])[3]}`;
      return `${spec.title}: ${Array.isArray(value) ? value.join(" ") : Number(value.toPrecision(4))}`;
    });
    const voxel = Array.from(location.vox, (v) => Math.round(v)).slice(0, current.flat ? 2 : 3);
    place.textContent = `${current.flat ? "pixel" : "voxel"} ${voxel.join(", ")} \u00b7 ${words.join(" \u00b7 ")}`;
  };
  const open = async (number) => {
    const turn = ++opening, item = data.cases[number];
    select.value = number;
    place.textContent = "opening \u2026";
    const specs = data.layers.filter((spec) => item.items[spec.kind]), volumes = [];
    for (const spec of specs) volumes.push(await volumeOf(item.items[spec.kind], spec));
    if (turn !== opening) return;
    while (view.volumes.length) view.removeVolume(view.volumes[view.volumes.length - 1]);
    current = { ...item, number, volumes };
    volumes.forEach((volume, i) => {
      volume.opacity = shown.get(specs[i].kind) ? specs[i].opacity : 0;
      view.addVolume(volume);
    });
    note.textContent = item.note;
    layerTools.replaceChildren();
    buttons.clear();
    data.layers.forEach((spec, i) => {
      if (!item.items[spec.kind]) return;
      buttons.set(spec.kind, button(layerTools, spec.title, i + 1, shown.get(spec.kind),
        () => toggle(spec.kind)));
    });
    planeTools.hidden = false;
    for (const made of planeTools.querySelectorAll("[data-plane]")) made.hidden = item.flat;
    view.scene.crosshairPos = view.vox2frac(item.center);
    view.setCrosshairWidth(item.flat ? 0 : 0.4);
    view.opts.isOrientationTextVisible = !item.flat;
    setPlane(plane);
    view.createOnLocationChange();
    paint();
  };
  const step = (by) => open((current.number + by + data.cases.length) % data.cases.length);
  // the arrows go through the slices of the plane that is shown, of the axial one in all three
  const scroll = (by) => {
    const axis = { all: 2, axial: 2, coronal: 1, sagittal: 0 }[plane];
    view.moveCrosshairInVox(...[0, 1, 2].map((i) => (i === axis ? by : 0)));
  };
  const keys = {
    ArrowUp: () => scroll(1), ArrowDown: () => scroll(-1),
    PageUp: () => scroll(5), PageDown: () => scroll(-5),
    n: () => step(1), p: () => step(-1), w: () => setDrag(drag === "window" ? "move" : "window"),
    r: resetWindow, m: () => setPlane("all"), a: () => setPlane("axial"),
    c: () => setPlane("coronal"), s: () => setPlane("sagittal"),
  };
  const pressed = (event) => {
    if (event.key === "Tab") return;
    event.stopImmediatePropagation();  // NiiVue has keys of its own
    if (event.ctrlKey || event.metaKey || event.altKey || !current) return;
    const layer = data.layers[Number(event.key) - 1];
    const act = keys[event.key] || (layer && current.items[layer.kind] && (() => toggle(layer.kind)));
    if (!act) return;
    event.preventDefault();
    act();
  };
  const draw_legend = () => {
    for (const [title, list] of data.legend) {
      for (const color of list.slice(1)) {
        const entry = document.createElement("span"), chip = document.createElement("span");
        chip.className = "chip";
        chip.style.background = `rgb(${color.slice(0, 3).join(",")})`;
        entry.append(chip, title ? `${title}: ${color[3]}` : color[3]);
        legend.append(entry);
      }
    }
  };
  const start = async () => {
    if (!("DecompressionStream" in window)) throw new Error("this browser cannot unpack gzip");
    const code = new Blob([await unpacked("niivue-bundle")], { type: "text/javascript" });
    const script = document.createElement("script");
    script.src = URL.createObjectURL(code);
    await new Promise((done, failed) => {
      script.onload = done;
      script.onerror = () => failed(new Error("the viewer could not be loaded"));
      document.head.append(script);
    });
    kit = window.niivue;
    canvas.addEventListener("keydown", pressed, true);
    canvas.addEventListener("keyup", (event) => event.stopImmediatePropagation(), true);
    canvas.addEventListener("wheel", (event) => {  // the page scrolls until the picture is clicked
      if (document.activeElement !== canvas) event.stopImmediatePropagation();
    }, true);
    canvas.addEventListener("pointerdown", () => canvas.focus({ preventScroll: true }), true);
    view = new kit.Niivue({
      logLevel: "error", loadingText: "", dragAndDropEnabled: false, isRadiologicalConvention: true,
      sagittalNoseLeft: true,
      multiplanarShowRender: kit.SHOW_RENDER.NEVER, isNearestInterpolation: true,
      crosshairColor: [1, 1, 1, 0.6], crosshairWidthUnit: "percent", fontColor: [0.85, 0.85, 0.85, 1],
      backColor: [0, 0, 0, 1], viewModeHotKey: "", clipPlaneHotKey: "", cycleClipPlaneHotKey: "",
    });
    view.onLocationChange = where;
    await view.attachToCanvas(canvas, false);
    data.cases.forEach((item, i) => select.append(new Option(item.name, i)));
    select.addEventListener("change", () => open(Number(select.value)));
    for (const [name, key] of [["all", "M"], ["axial", "A"], ["coronal", "C"], ["sagittal", "S"]]) {
      button(planeTools, name === "all" ? "three planes" : name, key, name === plane,
        () => setPlane(name)).dataset.plane = name;
    }
    button(planeTools, "drag sets window", "W", false,
      () => setDrag(drag === "window" ? "move" : "window")).dataset.drag = "";
    button(planeTools, "window as before", "R", false, resetWindow).removeAttribute("aria-pressed");
    setDrag("move");
    draw_legend();
    root.viewer = view;
    await open(0);
    root.dataset.ready = "true";
  };
  // it starts when it comes into sight: pages with large volumes open at once
  const seen = new IntersectionObserver((entries) => {
    if (!entries.some((entry) => entry.isIntersecting)) return;
    seen.disconnect();
    start().catch((error) => {
      place.textContent = `The viewer does not run here: ${error.message}. It needs WebGL 2 and a `
        + "browser of 2023 or later; the pictures above show the same cases.";
    });
  }, { rootMargin: "300px" });
  seen.observe(root);
})();
