package shop

import (
	"embed"
	"fmt"
	"hash/fnv"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/shopset/shopset/examples/platform/internal/filecache"
	"github.com/shopset/shopset/examples/platform/internal/tpl"
	"github.com/shopset/shopset/examples/platform/shopapi"
)

//go:embed theme
var themeFS embed.FS

// theme is what makes a shop look like itself: template sources, constants and a style sheet.
type theme struct {
	files     map[string]string
	constants map[string]string
	style     string
}

// themeFiles returns the embedded sources by name.
var themeFiles = sync.OnceValue(func() map[string]string {
	files := map[string]string{}
	entries, err := fs.ReadDir(themeFS, "theme")
	if err != nil {
		panic(err)
	}
	for _, entry := range entries {
		content, err := fs.ReadFile(themeFS, path.Join("theme", entry.Name()))
		if err != nil {
			panic(err)
		}
		files[entry.Name()] = string(content)
	}
	return files
})

// versions are those of the shops' themes by shop. A theme is the same as long as the program runs.
var versions sync.Map

// themeVersion identifies a shop's theme.
func themeVersion(shop shopapi.Shop) string {
	if known, ok := versions.Load(shop.ID); ok {
		return known.(string)
	}
	version := themeOf(shop).version()
	versions.Store(shop.ID, version)
	return version
}

// version is made of everything that is compiled, so that nothing can change without it.
func (t theme) version() string {
	parts := []string{"theme", tpl.FormatVersion, t.style}
	for _, values := range []map[string]string{t.files, t.constants} {
		parts = append(parts, fmt.Sprint(len(values)))
		for _, name := range slices.Sorted(maps.Keys(values)) {
			parts = append(parts, name, values[name])
		}
	}
	return filecache.Key(parts...)
}

var (
	palettes = [][2]string{
		{"#204060", "#c05020"}, {"#2d4a22", "#b8860b"}, {"#4a1942", "#d1495b"}, {"#1b3a4b", "#e07a5f"},
		{"#3d2b1f", "#7a9e7e"}, {"#333355", "#f2a541"}, {"#224b4b", "#c8553d"}, {"#5a2a27", "#5b8e7d"},
	}
	papers = []string{"#faf7f2", "#f4f6f8", "#fffdf7", "#f2f5ef"}
	fonts  = []string{"Georgia, serif", "Verdana, sans-serif", "'Trebuchet MS', sans-serif"}
	claims = []string{"Good things, kindly made.", "For people who keep things.", "Small makers, fair prices.", "Since 2009 & still curious."}
)

// themeOf makes the sources of a shop's theme, always the same for the same shop. The differences
// come from its id.
func themeOf(shop shopapi.Shop) theme {
	h := fnv.New64a()
	h.Write([]byte(shop.ID))
	draw := h.Sum64()
	pick := func(n int) int {
		chosen := int(draw % uint64(n))
		draw /= uint64(n)
		return chosen
	}
	variant := func(letters string) string { return string(letters[pick(len(letters))]) }

	t := theme{files: map[string]string{}}
	for name, content := range themeFiles() {
		t.files[name] = content
	}
	header, hero, look := variant("abc"), variant("ab"), variant("ab")
	t.files["header.tpl"] = t.files["header-"+header+".tpl"]
	t.files["hero.tpl"] = t.files["hero-"+hero+".tpl"]
	t.files["item.tpl"] = t.files["item-"+look+".tpl"]
	t.files["detail.tpl"] = t.files["detail-"+look+".tpl"]
	palette := palettes[pick(len(palettes))]
	t.constants = map[string]string{
		"variant": header + hero + look, "claim": claims[pick(len(claims))],
		"rounded": []string{"", "1"}[pick(2)], "promises": []string{"", "1"}[pick(2)],
		"promise": "Thirty days to change your mind", "columns": fmt.Sprint(2 + pick(3)),
	}
	t.style = fmt.Sprintf("$main: %s; $accent: %s; $paper: %s; $ink: #222222; $font: %s;\n",
		palette[0], palette[1], papers[pick(len(papers))], fonts[pick(len(fonts))]) +
		t.files["base.css"] + utilities("$main")
	return t
}

// utilities writes the helper classes that theme authors of the time liked to ship, most of which
// nobody uses. They are the bulk of a theme's style sheet.
func utilities(color string) string {
	var b strings.Builder
	b.WriteString("/* Helpers: spacing, columns and shades for each width of the screen. */\n")
	sides := []string{"top", "right", "bottom", "left"}
	for _, width := range []int{0, 480, 700, 1000} {
		if width > 0 {
			fmt.Fprintf(&b, "@media (min-width: %dpx) {\n", width)
		}
		for step := range 9 {
			for _, side := range sides {
				for _, property := range []string{"margin", "padding"} {
					fmt.Fprintf(&b, "  .w%d-%s-%s-%d { %s-%s: %dpx; }\n", width, property[:1], side[:1], step, property, side, step*4)
				}
			}
			fmt.Fprintf(&b, "  .w%d-shade-%d { background: lighten(%s, %d%%); &:hover { background: darken(%s, %d%%); } }\n",
				width, step, color, step*10, color, step*10)
		}
		for column := 1; column <= 12; column++ {
			fmt.Fprintf(&b, "  .w%d-col-%d { width: %.4f%%; .inner { max-width: %dpx; } }\n", width, column, float64(column)*100/12, column*90)
		}
		if width > 0 {
			b.WriteString("}\n")
		}
	}
	return b.String()
}
