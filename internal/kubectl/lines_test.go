package kubectl

import (
	"bytes"
	"os"
	"testing"
)

// TestColours: only a terminal gets them, and the columns stay aligned.
func TestColours(t *testing.T) {
	var plainText, coloured bytes.Buffer
	tree := []line{
		{columns: []column{{text: "a"}, wellness(true), {text: "x"}}},
		{columns: []column{{text: "bb"}, wellness(false), {text: ""}, {text: "y"}}, children: []line{{columns: columns("c")}}},
	}
	(&printer{Writer: &plainText}).tree(tree)
	if want := "a   well      x\nbb  not well     y\n└─ c\n"; plainText.String() != want {
		t.Fatalf("got\n%s\nwant\n%s", plainText.String(), want)
	}
	(&printer{Writer: &coloured, coloured: true}).tree(tree)
	if want := "a   \x1b[32mwell\x1b[0m      x\nbb  \x1b[31mnot well\x1b[0m     y\n└─ c\n"; coloured.String() != want {
		t.Fatalf("got\n%q\nwant\n%q", coloured.String(), want)
	}
}

// TestNothingToObey: what a program in a Pod has said last is in messages, and is not for the terminal to act on.
func TestNothingToObey(t *testing.T) {
	var out bytes.Buffer
	p := &printer{Writer: &out}
	p.tree([]line{{columns: columns("main-1", "exit code 1: \x1b[2J\x1b]0;title\a\r\nfailed"), children: []line{{columns: columns("a\u009bb")}}}})
	if want := "main-1  exit code 1:  [2J ]0;title failed\n└─ a b\n"; out.String() != want {
		t.Fatalf("got\n%q\nwant\n%q", out.String(), want)
	}
}

// TestWhoGetsColours: nobody but terminals, and of those nobody who said no.
func TestWhoGetsColours(t *testing.T) {
	terminal, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer terminal.Close()
	t.Setenv("TERM", "xterm")
	t.Setenv("NO_COLOR", "")
	if !newPrinter(terminal).coloured {
		t.Error("a terminal gets no colours")
	}
	if newPrinter(&bytes.Buffer{}).coloured {
		t.Error("a pipe gets colours")
	}
	t.Setenv("TERM", "dumb")
	if newPrinter(terminal).coloured {
		t.Error("a dumb terminal gets colours")
	}
	t.Setenv("TERM", "xterm")
	t.Setenv("NO_COLOR", "1")
	if newPrinter(terminal).coloured {
		t.Error("NO_COLOR is not heard")
	}
}
