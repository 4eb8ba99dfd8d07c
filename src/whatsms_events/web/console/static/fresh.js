// Says so where a page that asks again by itself has had no answer for a while: what it shows is of before.
"use strict";

const fresh = document.getElementById("fresh");
const old = document.getElementById("old");
const MISSED = 3; // so many answers may be late

if (fresh && old) {
  const limit = MISSED * 1000 * Number(fresh.dataset.refresh);
  let answered = performance.now();

  // Each answer changes at least the time that the page is of.
  function seen() {
    answered = performance.now();
    old.hidden = true;
  }

  new MutationObserver(seen).observe(fresh, { childList: true, characterData: true, subtree: true });
  document.addEventListener("visibilitychange", seen); // a browser lets a page that nobody looks at ask rarely
  setInterval(() => {
    old.hidden = document.hidden || performance.now() - answered < limit;
  }, 1000);
}
