"""The drawn pictures of the README and the site: the first picture, the map, the plot of speed."""
