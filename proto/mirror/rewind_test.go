package mirror_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/weft-sdn/weft/proto/mirror"
	"github.com/weft-sdn/weft/proto/store/storetest"
)

// A store that has been restored from a backup has fewer revisions than its followers have seen: a watch from a later one
// would wait for it in silence, and a key may have another value at the very revision that was seen.
func TestAStoreThatHasBeenRewoundIsListedAgain(t *testing.T) {
	before, restored := storetest.Start(t), storetest.Start(t)
	for _, s := range []*storetest.Server{before, restored} {
		put(t, s.Client(), "a/same", "1", "a/differs", fmt.Sprint(s.Endpoint()))
	}
	put(t, before.Client(), "a/lost", "1", "b", "1", "b", "2")
	g, r := behindGate(t, before, mirror.Options{Relist: time.Hour, Probe: 20 * time.Millisecond})
	r.untilIs(map[string]string{"a/same": "1", "a/differs": before.Endpoint(), "a/lost": "1"})
	g.set(true)
	g.lead(strings.TrimPrefix(restored.Endpoint(), "http://"))
	g.set(false)
	r.seen = map[string]int64{} // revisions begin anew
	r.untilIs(map[string]string{"a/same": "1", "a/differs": restored.Endpoint()})
	put(t, restored.Client(), "a/after", "1")
	r.untilIs(map[string]string{"a/same": "1", "a/differs": restored.Endpoint(), "a/after": "1"})
}
