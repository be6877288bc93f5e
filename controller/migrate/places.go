package migrate

import (
	"google.golang.org/protobuf/proto"

	"github.com/weft-sdn/weft/controller/quota"
	"github.com/weft-sdn/weft/proto/store"
)

// planPlaces has what version 3 counts against quotas count: without numbers, whatever the limits are.
func planPlaces(all []store.Entry) (writes []Write, left []string) {
	missing, left := quota.Missing(all)
	for _, o := range missing {
		value, err := proto.MarshalOptions{Deterministic: true}.Marshal(o.Claim())
		if err != nil {
			left = append(left, o.Kind.Name+" "+o.ID+" does not count: "+err.Error())
			continue
		}
		writes = append(writes, Write{Key: o.Key(), Value: value})
	}
	return writes, left
}
