package main

import (
	"path/filepath"
	"slices"
	"testing"
)

func TestAnImageHasItsOwnSuiteOnEveryRelease(t *testing.T) {
	const archive = "/usr/share/keyrings/debian-archive-keyring.gpg"
	for _, test := range []struct {
		name, codename string
		files          map[string]string
		want           []string
	}{
		{"the next release", "trixie", map[string]string{"sources.list.d/debian.sources": `Types: deb deb-src
# why
URIs: http://mirror.example/debian
Suites: trixie trixie-updates trixie-backports
Components: main contrib
Signed-By: ` + archive + `

Types: deb
URIs: http://mirror.example/debian-security
Suites: trixie-security
Components: main
Signed-By: ` + archive + "\n"}, []string{
			"deb [signed-by=" + archive + "] http://mirror.example/debian bookworm main",
			"deb [signed-by=" + archive + "] http://mirror.example/debian bookworm-updates main",
			"deb [signed-by=" + archive + "] http://mirror.example/debian-security bookworm-security main",
		}},
		{"lines, a file of one's own, strangers", "bookworm", map[string]string{
			"sources.list": "# deb http://old.example stable main\ndeb-src http://mirror.example/debian bookworm main\n",
			"sources.list.d/ours.list": "deb [ arch=amd64 trusted=yes ] http://mirror.example/debian stable main # fast\n" +
				"deb http://mirror.example/debian stable main\n",
			"sources.list.d/other.list":    "deb [signed-by=/etc/apt/keyrings/other.gpg] http://other.example bookworm main\ndeb http://other.example bookworm stable\n",
			"sources.list.d/off.sources":   "Types: deb\nEnabled: no\nURIs: http://off.example\nSuites: bookworm\nComponents: main\n",
			"sources.list.d/older.sources": "Types: deb\nURIs: http://older.example\nSuites: bullseye\nComponents: main\n",
			"sources.list.d/x.disabled":    "deb http://x.example bookworm main\n",
		}, []string{
			"deb [ arch=amd64 trusted=yes ] http://mirror.example/debian bookworm main",
			"deb http://mirror.example/debian bookworm main",
		}},
		{"another system", "noble", map[string]string{
			"sources.list.d/ubuntu.sources": "Types: deb\nURIs: http://other.example\nSuites: noble\nComponents: main\n" +
				"Signed-By: /usr/share/keyrings/ubuntu-archive-keyring.gpg\n",
		}, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			etc := t.TempDir()
			write(t, filepath.Join(etc, "os-release"), "ID=x\nVERSION_CODENAME="+test.codename+"\n")
			for file, content := range test.files {
				write(t, filepath.Join(etc, "apt", file), content)
			}
			if got, err := mirrors(etc, "bookworm"); err != nil || !slices.Equal(got, test.want) {
				t.Errorf("got %q %v\nwant %q", got, err, test.want)
			}
		})
	}
}
