// Filters the list of calls. The page is whole without it.
(() => {
  const find = document.getElementById("find");
  const field = find.querySelector("input");
  find.hidden = false;
  field.addEventListener("input", () => {
    const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const item of document.querySelectorAll("nav li")) {
      const article = document.getElementById(item.firstElementChild.hash.slice(1));
      const text = (item.textContent + " " + (article.querySelector(".summary")?.textContent ?? "")).toLowerCase();
      item.hidden = !words.every((word) => text.includes(word));
    }
  });
})();
