// Package quota knows how many objects a project may have: which kinds count and which objects do not, what the limits are,
// and which places are left under one. It reads and writes nothing; the API's handlers ask the store and append the claims.
//
// An object that counts holds a claim: on a numbered place (keys.PlaceClaim), which it remembers, if its project had a limit
// when it was made, else one under its own id (keys.UnnumberedPlace). No two objects hold one place, so a limit of n holds
// exactly, however many ask at once, and those who ask stand in each other's way only when they draw the same place.
package quota

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/weft-sdn/weft/proto/keys"
	storev1 "github.com/weft-sdn/weft/proto/weft/store/v1"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// Unlimited is the limit that is none, MaxLimit the highest that is one.
const (
	Unlimited = -1
	MaxLimit  = 1_000_000_000
)

// Kind is a kind of object that counts.
type Kind struct {
	Enum weftv1.Kind
	// Key is the kind as in package keys.
	Key string
	// Name is what people call one: "floating IP".
	Name string
	// Default is the limit of a project in a fleet whose operator says nothing.
	Default int64
}

// Setting is what the configuration calls the limit of the kind: "floating_ips".
func (k Kind) Setting() string { return strings.ReplaceAll(strings.ToLower(k.Name), " ", "_") + "s" }

// Kinds lists the kinds that count, in the order in which they are shown. The result is the caller's.
func Kinds() []Kind {
	return []Kind{
		{weftv1.Kind_KIND_NETWORK, keys.KindNetwork, "network", 100},
		{weftv1.Kind_KIND_SUBNET, keys.KindSubnet, "subnet", 100},
		{weftv1.Kind_KIND_PORT, keys.KindPort, "port", 500},
		{weftv1.Kind_KIND_ROUTER, keys.KindRouter, "router", 10},
		{weftv1.Kind_KIND_FLOATING_IP, keys.KindFloatingIP, "floating IP", 50},
		{weftv1.Kind_KIND_SECURITY_GROUP, keys.KindSecurityGroup, "security group", 10},
		{weftv1.Kind_KIND_SECURITY_GROUP_RULE, keys.KindRule, "security group rule", 100},
		{weftv1.Kind_KIND_ADDRESS_GROUP, keys.KindAddressGroup, "address group", 10},
	}
}

// kind is one of Kinds by its enum.
func kind(enum weftv1.Kind) (Kind, bool) {
	all := Kinds()
	i := slices.IndexFunc(all, func(k Kind) bool { return k.Enum == enum })
	if i < 0 {
		return Kind{}, false
	}
	return all[i], true
}

// Counts reports whether objects of a kind count.
func Counts(enum weftv1.Kind) bool {
	_, counts := kind(enum)
	return counts
}

// Valid reports whether a number is a limit: 0 to MaxLimit, or Unlimited.
func Valid(limit int64) bool { return limit >= Unlimited && limit <= MaxLimit }

// Limits are limits by kind, all of them Valid. A kind that is missing is unlimited.
type Limits map[weftv1.Kind]int64

// Defaults are the limits of a project in a fleet whose operator says nothing.
func Defaults() Limits {
	out := Limits{}
	for _, k := range Kinds() {
		out[k.Enum] = k.Default
	}
	return out
}

// Named are the defaults, but for the limits that are given by the kinds' settings. The error names one that is no setting, or
// no limit.
func Named(limits map[string]int64) (Limits, error) {
	out := Defaults()
	settings := map[string]weftv1.Kind{}
	for _, k := range Kinds() {
		settings[k.Setting()] = k.Enum
	}
	for _, name := range slices.Sorted(maps.Keys(limits)) {
		enum, known := settings[name]
		switch limit := limits[name]; {
		case !known:
			return nil, fmt.Errorf("%q is none of %s", name, strings.Join(slices.Sorted(maps.Keys(settings)), ", "))
		case !Valid(limit):
			return nil, fmt.Errorf("%s: %d is not in %d..%d", name, limit, Unlimited, MaxLimit)
		default:
			out[enum] = limit
		}
	}
	return out, nil
}

// With are the limits of a project for which some were set. The error names what was set and is no limit.
func (l Limits) With(set *storev1.Quota) (Limits, error) {
	out := Limits{}
	maps.Copy(out, l)
	for _, s := range set.GetLimits() {
		if !Valid(s.GetLimit()) {
			return nil, fmt.Errorf("the limit of %s is %d, which is not in %d..%d", s.GetKind(), s.GetLimit(), Unlimited, MaxLimit)
		}
		out[s.GetKind()] = s.GetLimit()
	}
	return out, nil
}

// Of is the limit of a kind; limited is false if there is none.
func (l Limits) Of(k Kind) (limit uint32, limited bool) {
	n, known := l[k.Enum]
	if !known || n == Unlimited {
		return 0, false
	}
	return uint32(n), true //nolint:gosec // valid
}
