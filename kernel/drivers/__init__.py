"""Where text is made: a driver per kind of engine, behind one seam."""
