"use strict";
(() => {
  // Tables: a title sorts by its column, upwards and downwards, then back to the first order.
  const compare = (a, b, numeric) => (numeric ? Number(a) - Number(b) : a < b ? -1 : a > b ? 1 : 0);
  for (const table of document.querySelectorAll("table.sortable")) {
    const body = table.tBodies[0];
    const titles = [...table.tHead.rows[0].cells];
    titles.forEach((title, column) => {
      title.querySelector("button").addEventListener("click", () => {
        const numeric = title.dataset.order === "numbers";
        const orders = numeric ? ["descending", "ascending", null] : ["ascending", "descending", null];
        const now = title.getAttribute("aria-sort");
        const next = orders[(orders.indexOf(now) + 1) % orders.length];
        for (const other of titles) other.removeAttribute("aria-sort");
        if (next) title.setAttribute("aria-sort", next);
        const turned = next === "descending" ? -1 : 1;
        const key = (row) => row.cells[column].dataset.key;
        const place = (row) => Number(row.dataset.place);
        const order = (a, b) => {
          const [one, other] = [key(a), key(b)];
          // What is not known comes last, however the column is turned.
          if (one === "" || other === "") return (one === "") - (other === "");
          return turned * compare(one, other, numeric);
        };
        body.append(...[...body.rows].sort((a, b) => (next && order(a, b)) || place(a) - place(b)));
      });
    });
  }

  // ... and filters, by a part of the name and by status.
  for (const controls of document.querySelectorAll(".controls")) {
    const table = document.getElementById(controls.dataset.table);
    const name = controls.querySelector(".filter-name");
    const status = controls.querySelector(".filter-status");
    const count = controls.querySelector(".count");
    const filter = () => {
      const wanted = name.value.trim().toLowerCase();
      let shown = 0;
      const rows = [...table.tBodies[0].rows];
      for (const row of rows) {
        const fits = row.dataset.name.toLowerCase().includes(wanted) &&
          (status.value === "" || row.dataset.status === status.value);
        row.hidden = !fits;
        shown += fits ? 1 : 0;
      }
      const word = count.dataset.word + (rows.length === 1 ? "" : "s");
      count.textContent = shown === rows.length ? `${shown} ${word}` : `${shown} of ${rows.length} ${word}`;
    };
    name.addEventListener("input", filter);
    status.addEventListener("change", filter);
  }

  // Points tell at once which tensor they are; without a script, their titles do.
  const tip = document.createElement("div");
  tip.className = "tip";
  tip.hidden = true;
  document.body.append(tip);
  const place = (x, y) => {
    tip.style.left = `${Math.max(4, Math.min(x + 12, innerWidth - tip.offsetWidth - 8))}px`;
    tip.style.top = `${y + 18 + tip.offsetHeight > innerHeight ? y - tip.offsetHeight - 10 : y + 18}px`;
  };
  for (const point of document.querySelectorAll("svg .point")) {
    const title = point.querySelector("title");
    if (!title) continue;
    const said = title.textContent;
    title.remove();
    point.setAttribute("aria-label", said);
    point.addEventListener("pointerenter", (event) => {
      tip.textContent = said;
      tip.hidden = false;
      place(event.clientX, event.clientY);
    });
    point.addEventListener("pointerleave", () => { tip.hidden = true; });
  }
  // A point leads to its row, which a filter may have hidden.
  for (const link of document.querySelectorAll("svg a[href^='#']")) {
    link.addEventListener("click", () => {
      const row = document.getElementById(link.getAttribute("href").slice(1));
      if (row) row.hidden = false;
    });
  }

  // Heat maps: the cell under the pointer, or under a cursor that the arrow keys move.
  const digits = (value) => (value === null ? "not finite" : String(value));
  for (const picture of document.querySelectorAll("svg.heat")) {
    const map = JSON.parse(picture.dataset.map);
    const cursor = picture.querySelector(".cursor");
    const readout = picture.closest(".map").querySelector(".readout");
    const atRest = readout.textContent;
    const size = [map.values.length, map.values[0].length];
    let at = null;
    const show = (cell) => {
      at = cell;
      if (!at) {
        readout.textContent = atRest;
        cursor.setAttribute("x", -99);
        return;
      }
      const [i, j] = at;
      cursor.setAttribute("x", map.left + j * map.width);
      cursor.setAttribute("y", map.top + i * map.height);
      const where = [0, 1].filter((axis) => map.axes[axis])
        .map((axis) => `${map.axes[axis]} ${map.labels[axis][at[axis]]}`);
      readout.textContent = `${where.join(", ")}: ${digits(map.values[i][j])}`;
    };
    picture.addEventListener("pointermove", (event) => {
      const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(picture.getScreenCTM().inverse());
      const cell = [Math.floor((point.y - map.top) / map.height), Math.floor((point.x - map.left) / map.width)];
      if (cell.every((n, axis) => n >= 0 && n < size[axis])) show(cell);
    });
    picture.addEventListener("pointerleave", () => show(null));
    picture.addEventListener("blur", () => show(null));
    picture.addEventListener("keydown", (event) => {
      const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
      if (!step) return;
      event.preventDefault();
      show(at ? at.map((n, axis) => Math.min(Math.max(n + step[axis], 0), size[axis] - 1)) : [0, 0]);
    });
  }

  // Paper cannot unfold anything.
  const unfolded = [];
  addEventListener("beforeprint", () => {
    for (const details of document.querySelectorAll("details:not([open])")) {
      details.open = true;
      unfolded.push(details);
    }
  });
  addEventListener("afterprint", () => {
    for (const details of unfolded.splice(0)) details.open = false;
  });
})();
