package routetable

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/shopset/shopset/internal/placement"
)

// ExportFormats are what Export writes, for front ends that do not compute placement themselves.
//
//	haproxy  a map file: HOST CELL
//	nginx    the entries of a map block: HOST CELL;
//	dns      for weighted records: HOST, CELL, PRIORITY, WEIGHT, tabs between
//
// The first cell of a host has priority 1 and weight 100; the others of its list follow with weight 0, as cells to fail
// over to.
var ExportFormats = []string{"haproxy", "nginx", "dns"}

// Export writes where the hosts are. They are taken in any spelling and written in their normal form, once each, in
// order. Nothing is written if one of them is no host.
func (t *Table) Export(w io.Writer, format string, hosts []string) error {
	if !slices.Contains(ExportFormats, format) {
		return fmt.Errorf("format %q is none of %s", clip(format), strings.Join(ExportFormats, ", "))
	}
	function, err := t.Function()
	if err != nil {
		return err
	}
	names, err := normaliseAll(hosts)
	if err != nil {
		return err
	}
	if len(function.Place("", nil)) == 0 {
		return errors.New("every cell is drained: no host has a cell")
	}
	out := bufio.NewWriter(w)
	fmt.Fprintf(out, "# fleet %s, epoch %d, version %d\n", t.Fleet, t.Epoch, t.Version)
	var placed []int
	for _, host := range names {
		placed = function.Place(host, placed)
		switch format {
		case "haproxy":
			fmt.Fprintf(out, "%s %s\n", host, t.Cells[placed[0]].Name)
		case "nginx":
			fmt.Fprintf(out, "%s %s;\n", host, t.Cells[placed[0]].Name)
		default:
			weight := 100
			for rank, index := range placed {
				fmt.Fprintf(out, "%s\t%s\t%d\t%d\n", host, t.Cells[index].Name, rank+1, weight)
				weight = 0
			}
		}
	}
	return out.Flush()
}

func normaliseAll(hosts []string) ([]string, error) {
	var names []string
	var problems []error
	for _, host := range hosts {
		name, err := placement.Normalise(host)
		if err == nil && strings.ContainsFunc(name, func(r rune) bool { return !isUsual(r) && r != '_' && r != ':' }) {
			err = fmt.Errorf("host %q has a character that means something else in the files of other programs", clip(name))
		}
		if err != nil {
			problems = append(problems, err)
			continue
		}
		names = append(names, name)
	}
	slices.Sort(names)
	return slices.Compact(names), errors.Join(problems...)
}
