package router

import "testing"

// TestNoByteIsLostWithoutPipes lets all pipes be in use elsewhere, so that large transfers go through the loop's one buffer.
func TestNoByteIsLostWithoutPipes(t *testing.T) {
	openPipes.Add(mostPipes)
	t.Cleanup(func() { openPipes.Add(-mostPipes) })
	noByteIsLost(t, EngineEpoll)
}
