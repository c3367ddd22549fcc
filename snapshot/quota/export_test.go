package quota

// DeviceOf is deviceOf.
var DeviceOf = deviceOf

// ByDevice is Kernel where there is no quotactl_fd.
func ByDevice(dir string) (Ledger, error) {
	device, err := deviceOf(dir)
	return kernel{dir: dir, device: device}, err
}
