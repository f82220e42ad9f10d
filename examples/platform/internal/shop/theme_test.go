package shop

import (
	"testing"

	"github.com/shopset/shopset/examples/platform/shopapi"
)

// TestTheVersionCoversTheTheme changes all that a release may change of a theme.
func TestTheVersionCoversTheTheme(t *testing.T) {
	shop := shopapi.Shop{ID: "shop-01"}
	want := themeVersion(shop)
	if got := themeOf(shop).version(); got != want {
		t.Errorf("the same theme has the versions %s and %s", want, got)
	}
	theme := themeOf(shop)
	theme.style += "a { color: red }"
	if theme.version() == want {
		t.Error("another style sheet has the same version")
	}
	for _, values := range []func() (map[string]string, string){
		func() (map[string]string, string) { theme = themeOf(shop); return theme.files, "file" },
		func() (map[string]string, string) { theme = themeOf(shop); return theme.constants, "constant" },
	} {
		all, _ := values()
		for name := range all {
			changed, kind := values()
			changed[name] += "x"
			if theme.version() == want {
				t.Errorf("with another %s %s the version is the same", kind, name)
			}
		}
	}
	defer func(before []string) { claims = before }(claims)
	claims = []string{"Something else."}
	if themeOf(shop).version() == want {
		t.Error("with another claim the version is the same")
	}
}
