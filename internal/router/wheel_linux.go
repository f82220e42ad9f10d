package router

// wheel holds the deadlines of the connections of one loop. A connection is in it once, and is looked at when its slot comes;
// if its deadline was put off meanwhile it goes into a later one. So a deadline that moves with every byte costs nothing.
type wheel struct {
	slots [wheelSlots]*conn
	used  [wheelSlots / 64]uint64
	// done is the tick up to which all slots were looked at.
	done int64
}

const (
	wheelSlots = 1024
	// tick is how exact deadlines are: about 16 ms.
	tick = 1 << 24
)

// add puts a connection in for its deadline, or the farthest slot.
func (w *wheel) add(c *conn) {
	at := min(max(c.deadline/tick+1, w.done+1), w.done+wheelSlots-1)
	slot := at % wheelSlots
	c.slot = int16(slot)
	c.before, c.after = nil, w.slots[slot]
	if c.after != nil {
		c.after.before = c
	}
	w.slots[slot] = c
	w.used[slot/64] |= 1 << (slot % 64)
}

// remove takes a connection out.
func (w *wheel) remove(c *conn) {
	if c.slot < 0 {
		return
	}
	if c.before != nil {
		c.before.after = c.after
	} else {
		w.slots[c.slot] = c.after
		if c.after == nil {
			w.used[c.slot/64] &^= 1 << (c.slot % 64)
		}
	}
	if c.after != nil {
		c.after.before = c.before
	}
	c.before, c.after, c.slot = nil, nil, -1
}

// sooner moves a connection whose deadline is now earlier than its slot.
func (w *wheel) sooner(c *conn) {
	w.remove(c)
	w.add(c)
}

// advance calls due for every connection whose slot has come.
func (w *wheel) advance(at int64, due func(*conn)) {
	to := at / tick
	for steps := 0; w.done < to && steps < wheelSlots; steps++ {
		w.done++
		slot := w.done % wheelSlots
		for w.slots[slot] != nil {
			c := w.slots[slot]
			w.remove(c)
			due(c)
		}
	}
	w.done = max(w.done, to)
}

// next is the time of the first slot that is not empty, 0 if there is none.
func (w *wheel) next() int64 {
	for i := int64(1); i < wheelSlots; {
		slot := (w.done + i) % wheelSlots
		word := w.used[slot/64] >> (slot % 64)
		if word == 0 {
			i += 64 - slot%64
			continue
		}
		if word&1 != 0 {
			return (w.done + i) * tick
		}
		i++
	}
	return 0
}
