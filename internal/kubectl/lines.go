package kubectl

import (
	"fmt"
	"io"
	"os"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/term"
)

// colour of a text on a terminal.
type colour string

const (
	plain  colour = ""
	green  colour = "32"
	red    colour = "31"
	yellow colour = "33"
	bold   colour = "1"
)

// column is one of a line.
type column struct {
	text   string
	colour colour
}

func columns(texts ...string) (result []column) {
	for _, text := range texts {
		result = append(result, column{text: text})
	}
	return result
}

// line is one of a tree. The columns of lines with the same parent are aligned; the last one may have any length.
type line struct {
	columns  []column
	children []line
}

// printer writes trees.
type printer struct {
	io.Writer
	coloured bool
}

// newPrinter colours for a terminal, unless somebody said no (no-color.org).
func newPrinter(out io.Writer) *printer {
	return &printer{Writer: out, coloured: isTerminal(out) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"}
}

func isTerminal(out io.Writer) bool {
	file, isFile := out.(*os.File)
	return isFile && term.IsTerminal(int(file.Fd()))
}

func (p *printer) paint(c column) string {
	if !p.coloured || c.colour == plain || c.text == "" {
		return c.text
	}
	return "\x1b[" + string(c.colour) + "m" + c.text + "\x1b[0m"
}

// printable leaves nothing in a text that a terminal would obey: messages hold what programs in Pods have said at last.
func printable(text string) string {
	if strings.IndexFunc(text, unicode.IsControl) < 0 {
		return text
	}
	return strings.Join(strings.FieldsFunc(text, unicode.IsControl), " ")
}

// tree writes lines and what is below them.
func (p *printer) tree(lines []line) { p.below("", lines, true) }

func (p *printer) below(indent string, lines []line, top bool) {
	var widths []int
	for _, l := range lines {
		for i, c := range l.columns {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			c.text = printable(c.text)
			l.columns[i] = c
			widths[i] = max(widths[i], utf8.RuneCountInString(c.text))
		}
	}
	for at, l := range lines {
		branch, next := "├─ ", "│  "
		if at == len(lines)-1 {
			branch, next = "└─ ", "   "
		}
		if top {
			branch, next = "", ""
		}
		var text strings.Builder
		pad := 0
		for i, c := range l.columns {
			if c.text != "" {
				text.WriteString(strings.Repeat(" ", pad))
				text.WriteString(p.paint(c))
				pad = 0
			}
			pad += widths[i] - utf8.RuneCountInString(c.text)
			if widths[i] > 0 {
				pad += 2
			}
		}
		fmt.Fprintf(p, "%s%s%s\n", indent, branch, text.String())
		p.below(indent+next, l.children, false)
	}
}
