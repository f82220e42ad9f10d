package buyer

import (
	"net/url"
	"strings"

	"golang.org/x/net/html"
)

// form is a form as a browser would send it.
type form struct {
	action string
	values url.Values
}

func attribute(n *html.Node, name string) string {
	for _, a := range n.Attr {
		if a.Key == name {
			return a.Val
		}
	}
	return ""
}

// links returns the targets of links that begin with the prefix, each once.
func (p *page) links(prefix string) []string {
	var out []string
	seen := map[string]bool{}
	for n := range p.root.Descendants() {
		href := attribute(n, "href")
		if n.Type == html.ElementNode && n.Data == "a" && strings.HasPrefix(href, prefix) && !seen[href] {
			seen[href] = true
			out = append(out, href)
		}
	}
	return out
}

// styles returns the style sheets of the page.
func (p *page) styles() []string {
	var out []string
	for n := range p.root.Descendants() {
		if n.Type == html.ElementNode && n.Data == "link" && attribute(n, "rel") == "stylesheet" {
			out = append(out, attribute(n, "href"))
		}
	}
	return out
}

// form returns the form that posts to the action, with its fields as the page fills them.
func (p *page) form(action string) (form, bool) {
	for n := range p.root.Descendants() {
		if n.Type != html.ElementNode || n.Data != "form" || attribute(n, "action") != action {
			continue
		}
		f := form{action: action, values: url.Values{}}
		for field := range n.Descendants() {
			if field.Type == html.ElementNode && field.Data == "input" && attribute(field, "name") != "" {
				f.values.Set(attribute(field, "name"), attribute(field, "value"))
			}
		}
		return f, true
	}
	return form{}, false
}

// byID returns the value of an attribute of the element with the id.
func (p *page) byID(id, name string) string {
	for n := range p.root.Descendants() {
		if n.Type == html.ElementNode && attribute(n, "id") == id {
			return attribute(n, name)
		}
	}
	return ""
}

// quantity returns the quantity of a product in the cart's page, empty when it is not there.
func (p *page) quantity(product string) string {
	for n := range p.root.Descendants() {
		if n.Type == html.ElementNode && attribute(n, "data-product") == product {
			return attribute(n, "data-quantity")
		}
	}
	return ""
}

func textOf(root *html.Node) string {
	var b strings.Builder
	for n := range root.Descendants() {
		if n.Type == html.TextNode && (n.Parent == nil || n.Parent.Data != "style" && n.Parent.Data != "script") {
			b.WriteString(n.Data)
			b.WriteByte(' ')
		}
	}
	return b.String()
}
