// Package shop renders the pages that people browse: home, product, and the pages for what goes
// wrong, each shop in its own theme.
//
// It promises:
//
//   - The Host header alone says which shop it is; an unknown one is 404.
//   - Nothing that comes from the api is ever parsed as a template, and all of it is escaped.
//   - Price and stock are as the api says at the moment of the request; only the rendering of a
//     product's look is kept, under a key of everything it shows.
//   - Without the api it answers 503, in the shop's look when the shop is known.
//   - Without a usable cache folder it serves the same bytes, only slower, and metrics say so.
//
// How, for each request: the shop's theme is compiled on first use, all of it, and each part is
// kept in a file of its own below the shop's folder; later requests read the files they need.
//
//	SHOP/theme                 the list of what was compiled, written last
//	SHOP/template/NAME         a compiled template (package tpl)
//	SHOP/style.css             the merged and minified style sheet
//	SHOP/fragment/KIND-ID      a product as it looks in a list or on its own page
//
// The key of each file (package filecache) holds the version of its theme: the format of compiled
// templates, all source files, the style sheet, and the shop's own settings; that of a fragment also the product. A
// file that is missing, torn or of another version is made anew, once, however many ask at the same
// moment. The names do not vary with versions, so the folder does not grow with them.
//
// There is deliberately no layer in memory above the files: that is how the shop systems work whose
// caches ShopSet warms, and what the page cache of the kernel is good at.
package shop
