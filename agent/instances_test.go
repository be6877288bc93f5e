package agent

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/weft-sdn/weft/agent/metadata"
	"github.com/weft-sdn/weft/agent/metadata/guest"
	"github.com/weft-sdn/weft/agent/view"
	"github.com/weft-sdn/weft/proto/keys"
	"github.com/weft-sdn/weft/proto/model"
	"github.com/weft-sdn/weft/proto/store/storetest"
	"github.com/weft-sdn/weft/proto/txn"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

const instancePort = "0a1b2c3d-4e5f-4071-8293-a4b5c6d7e8f9"

func putInstance(t *testing.T, etcd *storetest.Server, m proto.Message) {
	t.Helper()
	var change txn.Txn
	change.Put(keys.Instance(instancePort), m)
	if _, err := etcd.Store().Commit(t.Context(), &change, 0); err != nil {
		t.Fatal(err)
	}
}

// old makes what is remembered of the port too old to count without asking.
func (i *instances) old() {
	i.mu.Lock()
	defer i.mu.Unlock()
	have := i.known[instancePort]
	have.at = time.Time{}
	i.known[instancePort] = have
}

func TestAnInstanceIsReadWhenAskedForAndRememberedWhileTheStoreIsAway(t *testing.T) {
	etcd := storetest.Start(t)
	i := newInstances(etcd.Store())
	if got, err := i.get(t.Context(), instancePort); got != nil || err != nil {
		t.Fatalf("nothing is stored: %v %v", got, err)
	}
	putInstance(t, etcd, &weftv1.Instance{Id: "vm-1"})
	i.old()
	if got, err := i.get(t.Context(), instancePort); got.GetId() != "vm-1" || err != nil {
		t.Fatalf("%v %v", got, err)
	}
	putInstance(t, etcd, &weftv1.Instance{Id: "vm-2"})
	if got, err := i.get(t.Context(), instancePort); got.GetId() != "vm-1" || err != nil {
		t.Errorf("asked again at once: %v %v", got, err)
	}
	etcd.Stop()
	i.old()
	for range 2 {
		if got, err := i.get(t.Context(), instancePort); got.GetId() != "vm-1" || err != nil {
			t.Errorf("without the store: %v %v", got, err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := i.get(ctx, "1a1b2c3d-4e5f-4071-8293-a4b5c6d7e8f9"); err == nil {
		t.Error("one that nobody has asked for before is answered without the store")
	}
}

func TestAnInstanceOfNoFormIsUnusable(t *testing.T) {
	etcd := storetest.Start(t)
	i := newInstances(etcd.Store())
	putInstance(t, etcd, &weftv1.Instance{Hostname: "two.labels"})
	if _, err := i.get(t.Context(), instancePort); !errors.Is(err, metadata.ErrUnusable) || !strings.Contains(err.Error(), "hostname") {
		t.Errorf("%v", err)
	}
}

func TestWhatIsRememberedIsBounded(t *testing.T) {
	i := &instances{known: map[string]remembered{}}
	for n := range 3 * maxInstances {
		i.remember(string(rune(n)), nil, nil)
	}
	if len(i.known) > maxInstances {
		t.Errorf("%d are remembered", len(i.known))
	}
}

func TestAGuestIsToldWhatItsPortAndInstanceSay(t *testing.T) {
	source := netip.MustParseAddr("10.0.0.5")
	n := &view.Network{Subnets: map[string]view.Versioned[model.Subnet]{
		"s": {Object: model.Subnet{CIDR: netip.MustParsePrefix("10.0.0.0/24"), Gateway: netip.MustParseAddr("10.0.0.1"), DHCP: true}},
	}}
	n.Object.Domain, n.Object.MTU = "weft.internal", 1450
	p := model.Port{ID: "port", Project: "blue", Network: "net", MAC: "fa:16:3e:00:00:01", DeviceID: "device", FixedIPs: []model.FixedIP{{Subnet: "s", IP: source}}}
	for _, c := range []struct {
		instance                       *weftv1.Instance
		device, id, hostname, userData string
	}{
		{nil, "device", "device", "host-10-0-0-5", ""},
		{nil, "", "port", "host-10-0-0-5", ""},
		{&weftv1.Instance{Id: "vm-1", Hostname: "web", UserData: []byte("#!")}, "device", "vm-1", "web", "#!"},
	} {
		p.DeviceID = c.device
		g := guestOf(p, n, source)
		instruct(&g, c.instance, p.DeviceID)
		if g.Instance != c.id || g.Hostname != c.hostname || string(g.UserData) != c.userData {
			t.Errorf("%+v: %+v", c, g)
		}
		if want := (guest.Address{Prefix: netip.MustParsePrefix("10.0.0.5/24"), Gateway: netip.MustParseAddr("10.0.0.1"), DHCP: true}); len(g.Addresses) != 1 ||
			g.Addresses[0].Prefix != want.Prefix || g.Addresses[0].Gateway != want.Gateway || !g.Addresses[0].DHCP {
			t.Errorf("addresses %+v", g.Addresses)
		}
		if g.Project != "blue" || g.FQDN() != c.hostname+".weft.internal" || g.MTU != 1450 {
			t.Errorf("%+v", g)
		}
	}
}
