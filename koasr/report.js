// Plays segments, seeks by word and by wave, filters and sorts. Without it the page still reads,
// and the browser's own players are there.
(() => {
  "use strict";
  const body = document.getElementById("rows");
  if (!body) return;
  const rows = [...body.rows];
  const find = document.getElementById("find");
  const kind = document.getElementById("kind");
  const order = document.getElementById("order");
  const status = document.getElementById("shown");
  const none = document.getElementById("none");
  const heads = [...document.querySelectorAll("[data-sort]")];

  const players = new Map();
  for (const row of rows) {
    const audio = row.querySelector("audio");
    if (audio) players.set(row, prepare(row, audio));
  }

  function prepare(row, audio) {
    const button = row.querySelector(".play");
    const range = row.querySelector("input[type=range]");
    const time = row.querySelector(".time");
    const wave = row.querySelector(".wave");
    const words = [...row.querySelectorAll("[data-at]")];
    const name = button.getAttribute("aria-label").replace("Play ", "");
    audio.controls = false;
    audio.hidden = true;
    row.querySelector(".player").hidden = false;

    function draw() {
      const now = audio.currentTime;
      range.value = now;
      const total = Number(range.max);
      wave.style.setProperty("--at", `${(100 * Math.min(now / total, 1)).toFixed(2)}%`);
      time.textContent = now ? `${now.toFixed(1)} / ${total.toFixed(1)}` : `${total.toFixed(1)} s`;
      const spoken = audio.paused ? [] : words.filter((word) => Number(word.dataset.at) <= now);
      for (const word of words) word.classList.toggle("now", word === spoken.at(-1));
    }
    function loop() {
      draw();
      if (!audio.paused) requestAnimationFrame(loop);
    }
    function turn() {
      row.classList.toggle("playing", !audio.paused);
      button.setAttribute("aria-label", `${audio.paused ? "Play" : "Pause"} ${name}`);
      loop();
    }
    function from(seconds) {
      for (const [other, player] of players) if (other !== row) player.audio.pause();
      if (seconds !== undefined) audio.currentTime = seconds;
      audio.play().catch(() => { time.textContent = "cannot play"; });
    }
    range.addEventListener("keydown", (event) => {
      const turn = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!turn) return;
      audio.currentTime = Math.min(Math.max(audio.currentTime + turn / 2, 0), Number(range.max));
      event.preventDefault();
    });
    button.addEventListener("click", () => (audio.paused ? from() : audio.pause()));
    range.addEventListener("input", () => { audio.currentTime = Number(range.value); draw(); });
    for (const word of words) {
      // A little before: what starts a word is soft.
      word.addEventListener("click", () => from(Math.max(Number(word.dataset.at) - 0.08, 0)));
    }
    for (const event of ["play", "pause", "ended"]) audio.addEventListener(event, turn);
    audio.addEventListener("seeked", () => {
      draw();
      range.setAttribute("aria-valuetext", `${audio.currentTime.toFixed(1)} of ${range.max} seconds`);
    });
    return { audio };
  }

  // One stop of the tab key a row of words; the arrows go on from there.
  body.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey || event.target.type === "range") return;
    const row = event.target.closest("tr");
    const words = [...row.querySelectorAll(".words button")];
    const place = words.indexOf(event.target);
    if (place >= 0 && ["ArrowLeft", "ArrowRight", "Home", "End"].includes(event.key)) {
      const last = words.length - 1;
      const next = { ArrowLeft: place - 1, ArrowRight: place + 1, Home: 0, End: last }[event.key];
      move(words, Math.min(Math.max(next, 0), last));
      event.preventDefault();
    } else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      const visible = [...body.rows].filter((one) => !one.hidden);
      const next = visible[visible.indexOf(row) + (event.key === "ArrowDown" ? 1 : -1)];
      const wanted = place >= 0 ? '.words button[tabindex="0"]' : ".play";
      next?.querySelector(wanted)?.focus();
      event.preventDefault();
    }
  });
  function move(words, place) {
    for (const word of words) word.tabIndex = -1;
    words[place].tabIndex = 0;
    words[place].focus();
  }

  function filter() {
    const wanted = find.value.normalize("NFC").toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const row of rows) {
      const text = row.dataset.find.normalize("NFC").toLowerCase();
      const kinds = row.dataset.kinds.split(" ");
      const fits = kind.value === "differs" ? Number(row.dataset.cer) > 0 : kinds.includes(kind.value);
      row.hidden = !((!kind.value || fits) && wanted.every((word) => text.includes(word)));
      if (row.hidden) players.get(row)?.audio.pause();
      count += !row.hidden;
    }
    const all = `${rows.length} segment${rows.length === 1 ? "" : "s"}`;
    status.textContent = count === rows.length ? all : `${count} of ${all}`;
    none.hidden = count > 0;
  }

  function sort() {
    const name = order.value.replace("-", "");
    const turn = order.value.startsWith("-") ? -1 : 1;
    const value = (row) => row.dataset[name];
    const sorted = [...rows].sort((a, b) => {
      if (!name) return a.dataset.place - b.dataset.place;
      if (name === "key") return value(a).localeCompare(value(b));
      // What has none stands last, whichever way.
      if (!value(a) || !value(b)) return !value(a) - !value(b);
      return turn * (value(a) - value(b));
    });
    body.append(...sorted);
    for (const head of heads) {
      const way = head.dataset.sort === name ? (turn > 0 ? "ascending" : "descending") : "none";
      head.closest("th").setAttribute("aria-sort", way);
    }
  }

  for (const head of heads) {
    head.addEventListener("click", () => {
      const name = head.dataset.sort;
      const first = name === "confidence" ? name : `-${name}`;
      const second = name === "confidence" ? `-${name}` : name;
      order.value = order.value === first ? second : first;
      if (!order.value) order.value = first;
      sort();
    });
  }
  find.form.hidden = false;
  find.addEventListener("input", filter);
  kind.addEventListener("change", filter);
  order.addEventListener("change", sort);
  find.form.addEventListener("submit", (event) => event.preventDefault());
})();
