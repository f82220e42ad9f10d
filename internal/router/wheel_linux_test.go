package router

import (
	mathrand "math/rand/v2"
	"testing"
	"time"
)

// TestWheel compares with what should be due: nobody early, nobody later than two ticks, whatever is moved and removed.
func TestWheel(t *testing.T) {
	random := mathrand.New(mathrand.NewPCG(5, 6))
	w := &wheel{}
	at := int64(time.Hour)
	w.done = at / tick
	live := map[*conn]bool{}
	fired := 0
	for range 20_000 {
		switch random.IntN(4) {
		case 0, 1:
			c := &conn{slot: -1, deadline: at + random.Int64N(int64(40*time.Second))}
			w.add(c)
			live[c] = true
		case 2:
			for c := range live {
				if random.IntN(2) == 0 {
					w.remove(c)
					delete(live, c)
				} else {
					c.deadline = at + random.Int64N(int64(time.Second))
					w.sooner(c)
				}
				break
			}
		default:
			next := w.next()
			if next == 0 && len(live) > 0 {
				t.Fatal("nothing to wait for")
			}
			if step := random.Int64N(int64(100 * time.Millisecond)); next > at+step || next == 0 {
				at += step
			} else {
				at = max(next, at)
			}
			w.advance(at, func(c *conn) {
				switch {
				case !live[c]:
					t.Fatal("a removed one is due")
				case c.deadline > at:
					w.add(c)
				case at-c.deadline > 100*int64(time.Millisecond)+2*tick:
					t.Fatalf("%v late", time.Duration(at-c.deadline))
				default:
					fired++
					delete(live, c)
				}
			})
		}
	}
	if fired < 1000 {
		t.Errorf("only %d were due", fired)
	}
}
