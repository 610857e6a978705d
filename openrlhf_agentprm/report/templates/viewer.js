"use strict";
// Shows one episode at a time. Without this script every episode is a <details> of its own; nothing is lost.
(() => {
  const section = document.querySelector("#episodes");
  if (!section) return;
  const episodes = [...section.querySelectorAll("details.episode")];
  const picker = section.querySelector(".picker");
  const select = picker.querySelector("select");
  const groups = new Map();
  episodes.forEach((episode, index) => {
    const task = episode.dataset.task;
    if (!groups.has(task)) {
      const group = document.createElement("optgroup");
      group.label = task;
      groups.set(task, group);
      select.append(group);
    }
    const option = document.createElement("option");
    option.value = String(index);
    option.textContent = episode.querySelector("summary").textContent.replace(/\s+/g, " ").trim();
    groups.get(task).append(option);
  });
  const show = (index) => {
    episodes.forEach((episode, i) => {
      episode.hidden = i !== index;
      episode.open = i === index;
    });
    select.value = String(index);
  };
  select.addEventListener("change", () => show(Number(select.value)));
  for (const button of picker.querySelectorAll("button")) {
    button.addEventListener("click", () => {
      const next = Number(select.value) + Number(button.dataset.step);
      show((next + episodes.length) % episodes.length);
    });
  }
  picker.hidden = false;
  show(0);
})();
