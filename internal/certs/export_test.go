package certs

// Routes are all routes of the API, method and path.
func Routes() (routes []string) {
	for _, route := range NewAPI(nil, &Clients{}).routes {
		routes = append(routes, route.method+" "+route.path)
	}
	return routes
}
