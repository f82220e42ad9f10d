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
