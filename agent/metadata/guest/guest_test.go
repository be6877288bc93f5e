package guest_test

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weft-sdn/weft/agent/metadata/guest"
)

func vm() *guest.Guest {
	return &guest.Guest{
		Instance: "vm-1", Port: "0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9", Network: "net", Project: "blue",
		Hostname: "web", Domain: "weft.internal", MAC: "fa:16:3e:00:00:01", MTU: 1450,
		Addresses: []guest.Address{{
			Prefix: netip.MustParsePrefix("10.0.0.5/24"), Gateway: netip.MustParseAddr("10.0.0.1"), DNS: []netip.Addr{netip.MustParseAddr("192.0.2.53")}, DHCP: true,
		}},
		Keys:     []string{"ssh-ed25519 AAAA me@home", "ssh-rsa BBBB", "ssh-rsa CCCC me@home"},
		UserData: []byte("#cloud-config\n\x00\xff"),
		Metadata: map[string]string{"role": "web"},
	}
}

func TestPathsOfEC2AndOpenStack(t *testing.T) {
	for path, want := range map[string]string{
		"/":                                           "1.0\n2007-01-19\n2007-03-01\n2007-08-29\n2007-10-10\n2007-12-15\n2008-02-01\n2008-09-01\n2009-04-04\nlatest",
		"/latest":                                     "meta-data/\nuser-data",
		"/latest/meta-data/":                          "hostname\ninstance-id\nlocal-hostname\nlocal-ipv4\nmac\npublic-keys/",
		"/2009-04-04/meta-data/instance-id":           "vm-1",
		"/latest/meta-data/hostname":                  "web.weft.internal",
		"/latest/meta-data/local-ipv4":                "10.0.0.5",
		"//latest//meta-data//mac//":                  "fa:16:3e:00:00:01",
		"/latest/meta-data/public-keys/":              "0=me@home\n1=key-1\n2=me@home-2",
		"/latest/meta-data/public-keys/1":             "openssh-key",
		"/latest/meta-data/public-keys/1/openssh-key": "ssh-rsa BBBB",
		"/latest/user-data":                           "#cloud-config\n\x00\xff",
		"/openstack/latest/user_data":                 "#cloud-config\n\x00\xff",
		"/openstack/2018-08-27/":                      "meta_data.json\nnetwork_data.json\nuser_data\nvendor_data.json",
		"/openstack/latest/vendor_data.json":          "{}",
	} {
		if got, ok := vm().Find(path); !ok || string(got.Body) != want {
			t.Errorf("%s: %v %q, want %q", path, ok, got.Body, want)
		}
	}
	for _, path := range []string{
		"/latest/meta-data/hostname/x", "/latest/none", "/2031-01-01/meta-data/hostname", "/openstack/1.0/meta_data.json", "/../latest/user-data",
		"/latest/meta-data/host", "/openstack/latest/password",
	} {
		if got, ok := vm().Find(path); ok {
			t.Errorf("%s is there: %q", path, got.Body)
		}
	}
}

func TestEmptyThingsAreNotThere(t *testing.T) {
	g := &guest.Guest{Instance: "vm-2", Hostname: "host-10-0-0-6", Port: "short"}
	for _, path := range []string{"/latest/user-data", "/openstack/latest/user_data", "/latest/meta-data/public-keys", "/latest/meta-data/local-ipv4"} {
		if _, ok := g.Find(path); ok {
			t.Errorf("%s is there", path)
		}
	}
	if d, _ := g.Find("/latest/meta-data/hostname"); string(d.Body) != "host-10-0-0-6" {
		t.Errorf("hostname without a domain: %q", d.Body)
	}
}

func document(t *testing.T, g *guest.Guest, path string) map[string]any {
	t.Helper()
	d, ok := g.Find(path)
	if !ok || !strings.Contains(d.Type, "json") {
		t.Fatalf("%s: %v, type %q", path, ok, d.Type)
	}
	var out map[string]any
	if err := json.Unmarshal(d.Body, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestMetaDataOfOpenStack(t *testing.T) {
	want := map[string]any{
		"uuid": "vm-1", "name": "web", "hostname": "web.weft.internal", "project_id": "blue", "launch_index": 0.0,
		"meta":        map[string]any{"role": "web"},
		"public_keys": map[string]any{"me@home": "ssh-ed25519 AAAA me@home", "key-1": "ssh-rsa BBBB", "me@home-2": "ssh-rsa CCCC me@home"},
		"keys": []any{
			map[string]any{"name": "me@home", "type": "ssh", "data": "ssh-ed25519 AAAA me@home"},
			map[string]any{"name": "key-1", "type": "ssh", "data": "ssh-rsa BBBB"},
			map[string]any{"name": "me@home-2", "type": "ssh", "data": "ssh-rsa CCCC me@home"},
		},
	}
	if d := cmp.Diff(want, document(t, vm(), "/openstack/latest/meta_data.json")); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

func TestNetworkDataOfOpenStack(t *testing.T) {
	g := vm()
	g.Addresses = append(g.Addresses, guest.Address{
		Prefix: netip.MustParsePrefix("10.1.0.5/16"), Gateway: netip.MustParseAddr("10.1.0.1"), DNS: []netip.Addr{netip.MustParseAddr("192.0.2.53")},
		Routes: []guest.Route{{Destination: netip.MustParsePrefix("172.16.0.0/12"), Via: netip.MustParseAddr("10.1.0.9")}},
	})
	dns := map[string]any{"type": "dns", "address": "192.0.2.53"}
	link := "tap0a1b2c3d-4e"
	want := map[string]any{
		"links": []any{map[string]any{"id": link, "type": "ovs", "ethernet_mac_address": "fa:16:3e:00:00:01", "mtu": 1450.0, "vif_id": g.Port}},
		"networks": []any{
			map[string]any{"id": "network0", "type": "ipv4_dhcp", "link": link, "network_id": "net"},
			map[string]any{
				"id": "network1", "type": "ipv4", "link": link, "network_id": "net", "ip_address": "10.1.0.5", "netmask": "255.255.0.0",
				"routes": []any{
					map[string]any{"network": "0.0.0.0", "netmask": "0.0.0.0", "gateway": "10.1.0.1"},
					map[string]any{"network": "172.16.0.0", "netmask": "255.240.0.0", "gateway": "10.1.0.9"},
				},
				"services": []any{dns},
			},
		},
		"services": []any{dns},
	}
	if d := cmp.Diff(want, document(t, g, "/openstack/latest/network_data.json")); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

func FuzzPaths(f *testing.F) {
	for _, seed := range []string{"/", "/latest/meta-data/", "/openstack/latest", "/latest/meta-data/public-keys/0"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, path string) {
		if d, ok := vm().Find(path); ok && (len(d.Body) == 0 || d.Type == "") {
			t.Errorf("%q is found and empty", path)
		}
	})
}
