package migrate

import (
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/weft-sdn/weft/proto/keys"
	"github.com/weft-sdn/weft/proto/store"
	storev1 "github.com/weft-sdn/weft/proto/weft/store/v1"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// planNodes fills in what version 2 adds to a router's bindings: all nodes of the plan, which the router's placement has.
func planNodes(all []store.Entry) (writes []Write, left []string) {
	plans := map[string][]string{}
	for _, e := range all {
		k, err := keys.Parse(e.Key)
		if err != nil || k.Family != keys.FamilyRouter {
			continue
		}
		r := &weftv1.Router{}
		if err := proto.Unmarshal(e.Value, r); err != nil {
			left = append(left, fmt.Sprintf("router %s can't be read: %v", k.ID(), err))
			continue
		}
		plans[k.ID()] = r.GetPlacement().GetNodes()
	}
	for _, e := range all {
		k, err := keys.Parse(e.Key)
		if err != nil || k.Family != keys.FamilyHost || k.Kind() != keys.KindRouter {
			continue
		}
		value, reason := planned(e.Value, k.Scope(), plans[k.ID()])
		switch {
		case reason != "":
			left = append(left, fmt.Sprintf("the binding of router %s to node %s: %s", k.ID(), k.Scope(), reason))
		case value != nil:
			writes = append(writes, Write{Key: e.Key, Value: value, Revision: e.Revision})
		}
	}
	return writes, left
}

// planned is the value of a node's binding with the plan in it; nil when it is there already, or can't be, for a reason.
func planned(old []byte, node string, plan []string) (value []byte, reason string) {
	binding := &storev1.RouterBinding{}
	if err := proto.Unmarshal(old, binding); err != nil {
		return nil, fmt.Sprintf("it can't be read: %v", err)
	}
	if len(binding.GetNodes()) > 0 {
		return nil, ""
	}
	rank := slices.Index(plan, node)
	if rank < 0 {
		return nil, fmt.Sprintf("the node is none of the router's: %v", plan)
	}
	binding.Rank, binding.Nodes = int32(rank), plan //nolint:gosec // a few nodes
	value, err := proto.MarshalOptions{Deterministic: true}.Marshal(binding)
	if err != nil {
		return nil, err.Error()
	}
	return value, ""
}
