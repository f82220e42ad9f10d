package proxy

import "os"

// heapFloor is how much is reserved and never touched.
const heapFloor = 32 << 20

// HeapFloor keeps the garbage collector from running for every few MiB of garbage while little is in use, which is ten times a
// second at full load. The collector waits until the heap has doubled; what is returned counts as a part of it, and takes
// no memory, since nobody writes to it. It works as long as somebody holds it. It is nil where GOGC or GOMEMLIMIT is set:
// whoever sets them knows better.
func HeapFloor() []byte {
	if os.Getenv("GOGC") != "" || os.Getenv("GOMEMLIMIT") != "" {
		return nil
	}
	return make([]byte, heapFloor)
}
