package guest

import (
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
)

// openstackVersions are the versions of OpenStack's layout that Nova tells, up to the newest that cloud-init knows.
func openstackVersions() []string {
	return []string{
		"2012-08-10", "2013-04-04", "2013-10-17", "2015-10-15", "2016-06-30", "2016-10-06", "2017-02-22", "2018-08-27", "latest",
	}
}

// openstack are the documents below a version.
func (g *Guest) openstack() leaves {
	out := leaves{
		"meta_data.json":    encode(g.metaData()),
		"network_data.json": encode(g.networkData()),
		"vendor_data.json":  encode(struct{}{}),
	}
	if len(g.UserData) > 0 {
		out["user_data"] = Document{Body: g.UserData, Type: binary}
	}
	return out
}

// encode writes JSON; what is given here can always be written.
func encode(v any) Document {
	body, err := json.Marshal(v)
	if err != nil {
		body = []byte("{}")
	}
	return Document{Body: body, Type: object}
}

type metaData struct {
	UUID        string            `json:"uuid"`
	Name        string            `json:"name"`
	Hostname    string            `json:"hostname"`
	Project     string            `json:"project_id"`
	LaunchIndex int               `json:"launch_index"`
	PublicKeys  map[string]string `json:"public_keys,omitempty"`
	Keys        []keyData         `json:"keys,omitempty"`
	Meta        map[string]string `json:"meta,omitempty"`
}

type keyData struct {
	Name string `json:"name"`
	Type string `json:"type"`
	Data string `json:"data"`
}

func (g *Guest) metaData() metaData {
	out := metaData{UUID: g.Instance, Name: g.Hostname, Hostname: g.FQDN(), Project: g.Project, Meta: g.Metadata}
	for _, k := range g.named() {
		if out.PublicKeys == nil {
			out.PublicKeys = map[string]string{}
		}
		out.PublicKeys[k.name] = k.text
		out.Keys = append(out.Keys, keyData{Name: k.name, Type: "ssh", Data: k.text})
	}
	return out
}

type networkData struct {
	Links    []linkData    `json:"links"`
	Networks []addressData `json:"networks"`
	Services []serviceData `json:"services"`
}

type linkData struct {
	ID   string `json:"id"`
	Type string `json:"type"`
	MAC  string `json:"ethernet_mac_address"`
	MTU  int    `json:"mtu"`
	VIF  string `json:"vif_id"`
}

type addressData struct {
	ID       string        `json:"id"`
	Type     string        `json:"type"` // ipv4: set by hand; ipv4_dhcp
	Link     string        `json:"link"`
	Network  string        `json:"network_id"`
	Address  string        `json:"ip_address,omitempty"`
	Netmask  string        `json:"netmask,omitempty"`
	Routes   []routeData   `json:"routes,omitempty"`
	Services []serviceData `json:"services,omitempty"`
}

type routeData struct {
	Network string `json:"network"`
	Netmask string `json:"netmask"`
	Gateway string `json:"gateway"`
}

type serviceData struct {
	Type    string `json:"type"`
	Address string `json:"address"`
}

// idLength is how much of a port's UUID is in the name of its device (REFERENCE R9).
const idLength = 11

// networkData tells of the port that the question came by, and of no other that the VM may have.
func (g *Guest) networkData() networkData {
	link := linkData{ID: "tap" + g.Port[:min(idLength, len(g.Port))], Type: "ovs", MAC: g.MAC, MTU: g.MTU, VIF: g.Port}
	out := networkData{Links: []linkData{link}, Networks: []addressData{}, Services: []serviceData{}}
	told := map[serviceData]bool{}
	for i, a := range g.Addresses {
		d := addressData{ID: fmt.Sprintf("network%d", i), Type: "ipv4_dhcp", Link: link.ID, Network: g.Network}
		services := a.services()
		if !a.DHCP {
			d.Type, d.Services, d.Routes = "ipv4", services, a.routes()
			d.Address, d.Netmask = a.Prefix.Addr().String(), netmask(a.Prefix)
		}
		out.Networks = append(out.Networks, d)
		for _, s := range services {
			if !told[s] {
				told[s] = true
				out.Services = append(out.Services, s)
			}
		}
	}
	return out
}

func (a *Address) services() []serviceData {
	var out []serviceData
	for _, server := range a.DNS {
		out = append(out, serviceData{Type: "dns", Address: server.String()})
	}
	return out
}

func (a *Address) routes() []routeData {
	var out []routeData
	if a.Gateway.IsValid() {
		out = append(out, routeData{Network: "0.0.0.0", Netmask: "0.0.0.0", Gateway: a.Gateway.String()})
	}
	for _, r := range a.Routes {
		out = append(out, routeData{Network: r.Destination.Addr().String(), Netmask: netmask(r.Destination), Gateway: r.Via.String()})
	}
	return out
}

func netmask(p netip.Prefix) string { return net.IP(net.CIDRMask(p.Bits(), 32)).String() }
