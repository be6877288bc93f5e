package desired

// Difference is something on a host that is not as planned, as text for people.
type Difference struct {
	// Kind is "flow", "port", "bridge", "namespace", "link", "address", "route", "iptables", "ipset", "sysctl", "dhcp" or "metadata".
	Kind string
	// Object says where and which: "qrouter-…/qg-…", "br-int table=0, priority=100,in_port=3".
	Object string
	// Desired and Actual are what should be there and what is; "" for nothing.
	Desired, Actual string
}

// String is one line: kind, object, and how it differs.
func (d Difference) String() string {
	switch {
	case d.Desired == "":
		return d.Kind + " " + d.Object + ": surplus: " + d.Actual
	case d.Actual == "":
		return d.Kind + " " + d.Object + ": missing: " + d.Desired
	}
	return d.Kind + " " + d.Object + ": should be " + d.Desired + ", is " + d.Actual
}
