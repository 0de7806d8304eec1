FIGURES=("convergence",)
def draw(store,name,keys,figures): return []
