package tpl_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/shopset/shopset/examples/platform/internal/tpl"
)

func render(t *testing.T, files map[string]string, data tpl.Data) string {
	t.Helper()
	program, err := tpl.Compile(files, "main.tpl", map[string]string{"color": `a"b`, "on": "1", "off": ""})
	if err != nil {
		t.Fatal(err)
	}
	direct, err := program.Execute(nil, data)
	if err != nil {
		t.Fatal(err)
	}
	decoded, err := tpl.Decode(program.Encode())
	if err != nil {
		t.Fatal(err)
	}
	stored, err := decoded.Execute(nil, data)
	if err != nil || !bytes.Equal(direct, stored) {
		t.Fatalf("direct %q, from the stored form %q, %v", direct, stored, err)
	}
	return string(direct)
}

func TestLanguage(t *testing.T) {
	data := tpl.Data{
		"name": `<script>{$secret}</script> & "quoted" 'x'`, "html": tpl.HTML("<b>"), "n": 3, "empty": "", "yes": true,
		"items": []tpl.Data{{"id": int64(1)}, {"id": int64(2)}}, "product": tpl.Data{"price": "1.00 EUR"},
	}
	for _, test := range []struct{ name, source, want string }{
		{"escaped and not parsed again", `<p title="{$name}">`, `<p title="&lt;script&gt;{$secret}&lt;/script&gt; &amp; &#34;quoted&#34; &#39;x&#39;">`},
		{"HTML of the program", `{$html}`, `<b>`},
		{"path and number", `{$product.price} {$n}`, `1.00 EUR 3`},
		{"constant", `<i class="{#color#}">`, `<i class="a&#34;b">`},
		{"if", `{if $yes}a{else}b{/if}{if $empty}c{else}d{/if}{if !$missing}e{/if}`, `ade`},
		{"if constant", `{if #on#}a{else}b{/if}{if !#on#}c{/if}{if #off#}d{/if}`, `a`},
		{"foreach", `<ul>{foreach $items as $i}<li>{$i.id}-{$n}</li>{/foreach}</ul>`, `<ul><li>1-3</li><li>2-3</li></ul>`},
		{"comment", "a{* {$nothing}\n *}b", `ab`},
		{"braces", `a { b } c {} d{`, `a { b } c {} d{`},
		{"white space", "<ul>\n  <li>  a\n b </li>\n</ul>\n", `<ul><li> a b </li></ul>`},
		{"include", `[{include "part.tpl"}]`, `[3]`},
	} {
		t.Run(test.name, func(t *testing.T) {
			files := map[string]string{"main.tpl": test.source, "part.tpl": "{$n}"}
			if got := render(t, files, data); got != test.want {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
		})
	}
}

func TestErrorsNameFileAndLine(t *testing.T) {
	for _, test := range []struct{ source, want string }{
		{"a\n{$x", `main.tpl line 2: the tag "{$x" is not closed`},
		{"a\n\n{foo bar}", `main.tpl line 3: {foo bar} is no tag`},
		{"{if $x}\n{foreach $y as $z}\n{/if}", `main.tpl line 3: {/if} where {/foreach} was expected for the block of line 2`},
		{"{if $x}", `main.tpl line 1: {/if} is missing for the block of line 1`},
		{"{/if}", `main.tpl line 1: {/if} without its beginning`},
		{"\n{include \"no.tpl\"}", `main.tpl line 2: include: template no.tpl does not exist`},
		{"\n{include \"../../etc/passwd\"}", `template ../../etc/passwd does not exist`},
		{"{include \"main.tpl\"}", `does a file include itself?`},
		{"{#unknown#}", `main.tpl line 1: the theme has no constant unknown`},
	} {
		_, err := tpl.Compile(map[string]string{"main.tpl": test.source}, "main.tpl", nil)
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%q: got %v, want %s", test.source, err, test.want)
		}
	}
	program, err := tpl.Compile(map[string]string{"main.tpl": "{$x}"}, "main.tpl", nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := program.Execute(nil, tpl.Data{}); err == nil || !strings.Contains(err.Error(), "no value x") {
		t.Errorf("got %v", err)
	}
}

func TestStyle(t *testing.T) {
	got, err := tpl.Style("a.css", `$main: #102030; /* a { comment } */
.a, .b { color: $main; &:hover { color: lighten($main, 50%); }
  .c { margin: 0px  1px , 0em; color: red; color: darken(#ffffff, 100%) }
  @media (min-width: 9px) { top: 1px; } }
.a,.b { left: 0px }`)
	want := `.a,.b{color:#102030;left:0}.a:hover,.b:hover{color:#878f97}.a .c,.b .c{margin:0 1px,0;color:#000000}@media (min-width: 9px){.a,.b{top:1px}}`
	if err != nil || got != want {
		t.Errorf("got  %s %v\nwant %s", got, err, want)
	}
	for _, source := range []string{"a {", "}", "a { b }", "x: y;", "a { b: $c; }", "/*"} {
		if _, err := tpl.Style("a.css", source); err == nil || !strings.HasPrefix(err.Error(), "a.css line 1: ") {
			t.Errorf("%q: got %v", source, err)
		}
	}
}

func FuzzDecode(f *testing.F) {
	program, err := tpl.Compile(map[string]string{"m": `a{$b}{if $c}d{else}e{/if}{foreach $f as $g}{$g.h}{/foreach}`}, "m", nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(program.Encode())
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0x0f})
	f.Fuzz(func(t *testing.T, content []byte) {
		if program, err := tpl.Decode(content); err == nil {
			program.Execute(nil, tpl.Data{"b": "x", "f": []tpl.Data{{}}})
		}
	})
}
