package controller_test

import (
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/weft-sdn/weft/controller/audit"
	"github.com/weft-sdn/weft/proto/keys"
	"github.com/weft-sdn/weft/proto/store"
	storev1 "github.com/weft-sdn/weft/proto/weft/store/v1"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// TestTheAuditMissesNoKey takes a consistent store, removes one key at a time, and expects the audit to notice each.
func TestTheAuditMissesNoKey(t *testing.T) {
	w := newWorld(t)
	w.put(keys.Plug("cmp1", w.p1.GetId()), &storev1.Plug{})
	w.put(keys.Plug("cmp2", w.p1.GetId()), &storev1.Plug{})
	_, err := w.lend(w.ctx, w.net1.GetId(), "green")
	w.check(err)
	w.port(&weftv1.Port{Name: "green", Project: "green", NetworkId: w.net1.GetId()})
	w.eventually("bound and refused", func() bool { return w.refused("cmp2", w.p1.GetId()) != "" })
	snap, err := store.New(w.etcdClient).Read(w.ctx, store.Prefix(keys.Root))
	w.check(err)
	all := snap.Results[0].Entries
	if found := audit.Check(all); len(found) > 0 {
		t.Fatalf("a consistent store: %v", found)
	}
	silent := map[keys.Family]bool{keys.FamilyAgent: true, keys.FamilyLive: true, keys.FamilyRequest: true, keys.FamilyLeader: true}
	for i, e := range all {
		k, err := keys.Parse(e.Key)
		w.check(err)
		without := slices.Delete(slices.Clone(all), i, i+1)
		unused := k.ID() == w.tenantRange.GetId() || k.Family == keys.FamilySegmentRange && k.ID() != w.vxlanRange.GetId()
		harmless := k.Family == keys.FamilyPlug && k.Scope() == "cmp1" || k.Family == keys.FamilyHost && k.Scope() == "cmp2"
		if found := audit.Check(without); len(found) == 0 && !silent[k.Family] && !unused && !harmless {
			t.Errorf("nothing found without %s", e.Key)
		}
		broken := slices.Clone(all)
		broken[i].Value = []byte{0xff}
		if found := audit.Check(broken); len(found) == 0 && !silent[k.Family] && k.Family != keys.FamilyPlug {
			t.Errorf("nothing found with a broken value at %s", e.Key)
		}
	}
	stray := func(key string, m proto.Message) {
		t.Helper()
		raw, err := proto.Marshal(m)
		w.check(err)
		if found := audit.Check(append(slices.Clone(all), store.Entry{Key: key, Value: raw, Revision: 1})); len(found) == 0 {
			t.Errorf("nothing found with a stray %s", key)
		}
	}
	stray(keys.SegmentClaim("vxlan", "", 77), &storev1.Claim{Kind: keys.KindNetwork, Id: w.net1.GetId()})
	stray(keys.Locator(keys.KindPort, nobody), &storev1.Locator{Scope: w.net1.GetId()})
	stray(keys.HostObject("cmp9", keys.KindPort, w.p1.GetId()), &storev1.PortBinding{NetworkId: w.net1.GetId()})
	stray(keys.HostObject("cmp9", keys.KindRouter, w.r1.GetId()), &storev1.RouterBinding{})
	stray(keys.Active(nobody), &storev1.ActiveRouter{Node: "net1", Epoch: 1})
	stray(keys.Subnet(w.net1.GetId(), nobody), &weftv1.Subnet{Id: nobody})
	stray(keys.NetworkGrant(w.net1.GetId(), nobody), &weftv1.NetworkGrant{Id: nobody, NetworkId: w.net1.GetId(), Project: "default", TargetProject: "blue"})
	stray(keys.Root+"strange", &storev1.Plug{})
}
