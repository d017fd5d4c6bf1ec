"""Tools that models and apps may call, and the registry that runs them."""
