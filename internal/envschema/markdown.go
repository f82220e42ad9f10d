package envschema

import (
	"fmt"
	"strings"
)

// Markdown writes the table of variables for an image's documentation.
func (s *Schema) Markdown() string {
	var b strings.Builder
	b.WriteString("| Variable | Type | Default | Description |\n|---|---|---|---|\n")
	for i := range s.Variables {
		v := &s.Variables[i]
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", v.Name, cell(v.typeText()), cell(v.defaultText()), cell(v.descriptionText()))
	}
	if len(s.Constraints) > 0 {
		b.WriteString("\n")
	}
	for _, c := range s.Constraints {
		fmt.Fprintf(&b, "- %s\n", c.text())
	}
	return b.String()
}

// cell keeps a text inside of one cell of a table.
func cell(text string) string {
	return strings.NewReplacer("|", `\|`, "\n", " ", "\r", "").Replace(strings.TrimSpace(text))
}

func (v *Variable) typeText() string {
	text := v.Type
	switch v.Type {
	case "list":
		text = fmt.Sprintf("list of %s, separated by `%s`", v.Of, v.Separator)
	case "enum":
		text = "`" + strings.Join(v.Values, "`, `") + "`"
	}
	switch {
	case v.Min != "" && v.Max != "":
		text += fmt.Sprintf(", %s to %s", v.Min, v.Max)
	case v.Min != "":
		text += ", at least " + v.Min
	case v.Max != "":
		text += ", at most " + v.Max
	}
	if v.Pattern != "" {
		text += ", matches `" + v.Pattern + "`"
	}
	return text
}

func (v *Variable) defaultText() string {
	switch {
	case v.Required:
		return "**required**"
	case v.Default == nil:
		return ""
	case v.Secret:
		return "(secret)"
	default:
		return "`" + *v.Default + "`"
	}
}

func (v *Variable) descriptionText() string {
	text := v.Description
	if v.Secret {
		text += " A secret; `" + v.Name + fileSuffix + "` can name a file with it."
	}
	if v.DeprecatedBy != "" {
		text += " Deprecated: set `" + v.DeprecatedBy + "`."
	}
	return text
}

func (c *Constraint) text() string {
	join := func(names []string) string { return "`" + strings.Join(names, "`, `") + "`" }
	switch {
	case len(c.Together) > 0:
		return join(c.Together) + ": all or none"
	case len(c.ExactlyOne) > 0:
		return join(c.ExactlyOne) + ": exactly one"
	case len(c.AtMostOne) > 0:
		return join(c.AtMostOne) + ": one at most"
	case len(c.Ascending) > 0:
		return join(c.Ascending) + ": none less than the one before"
	case c.Is != "":
		return fmt.Sprintf("`%s` = `%s` requires %s", c.If, c.Is, join(c.Requires))
	default:
		return fmt.Sprintf("`%s` requires %s", c.If, join(c.Requires))
	}
}
