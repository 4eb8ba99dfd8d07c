// Times are in UTC on every page; where a pointer rests on one, it is told by the clock of whoever looks, too.
"use strict";

const clock = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "long" });

document.addEventListener("pointerover", (moved) => {
  const time = moved.target instanceof Element ? moved.target.closest("time[datetime]") : null;
  const at = time ? Date.parse(time.dateTime) : Number.NaN;
  if (!Number.isNaN(at)) time.title = `${clock.format(at)}, by your clock`;
});
