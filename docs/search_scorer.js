// Scores of the search. A heading that equals the query comes first, then a heading with a word of the query, then a name of the
// API, then text. At equal scores guides come before notebooks, and notebooks before other pages.

const isGuide = (page) => page === "index" || page.startsWith("docs/");
const isReference = (page) => page.startsWith("api/");

var Scorer = {
  // A result is [page, title, anchor, description, score, file, kind].
  score: ([page, , , , score, , kind]) =>
    score + (kind === "title" ? 5 : 0) - (isReference(page) ? 8 : isGuide(page) ? 0 : page.startsWith("notebooks/") ? 1 : 2),
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: { 0: 5, 1: 5, 2: -5 }, // modules rank like classes and functions
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};
