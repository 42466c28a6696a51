"""The console: one web page for one robot or several, a client of the graph that may die at any time."""
